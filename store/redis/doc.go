// Package redis keeps documents and vectors in Redis hashes, and carries answers to queries through Redis
// lists. It owns the key schema below and the scripts that write by it; it knows nothing of queues (whose
// keys begin with "asynq:") and models. Any Redis from 6.2 on or Valkey will do, single, Sentinel or
// Cluster; no module is needed.
//
// # Key schema
//
// Other programs may read these keys; only this package writes them. <alias> is the model's alias; it is
// the Cluster hash tag, so that a script may touch all keys of one alias.
//
//	key                      type    owner       TTL   growth
//	ef:{<alias>}:doc:<id>    hash    Put         none  one per document, see "Memory"
//	ef:{<alias>}:changes     zset    Put, Delete none  one member per document that ever was, ~100 B each
//	ef:{<alias>}:seq         string  Put, Delete none  one
//	ef:{<alias>}:space       string  ClaimSpace  none  one
//	ef:{<alias>}:stats       hash    Put, Delete none  five fields per space
//	ef:{<alias>}:gone        hash    Delete      none  one field per deleted document, ~100 B each
//	ef:answer:<task id>      list    Answer      60 s  one element per unfetched answer
//
// The fields of a document:
//
//	text       the text that was embedded, UTF-8
//	meta       JSON: title, source, url, published_at (RFC 3339, UTC), stock_codes, fields; absent ones left out
//	text_hash  SHA-256 of text, 64 hex digits
//	version    decimal integer; the highest wins
//	space      identity of the vector space, 64 hex digits; vectors of two spaces must not be compared
//	chunks     JSON: one [start, end, tokens, truncated] per chunk; start and end are bytes of text,
//	           truncated is 0 or 1
//	vectors    the chunks' vectors one after the other, float32 little-endian; the dimension is the number
//	           of bytes / 4 / the number of chunks. In Python:
//	           numpy.frombuffer(h[b"vectors"], "<f4").reshape(len(json.loads(h[b"chunks"])), -1)
//
// The others:
//
//	changes    member: document id; score: the alias's sequence number at its last change. A member without
//	           a document is one that was deleted
//	seq        the last sequence number given out
//	space      the space the alias writes now, the space-of-record. Put and Refresh of another are refused
//	gone       document id -> the version up to which it was deleted; Put of a lower or equal one does nothing
//	stats      <space>:docs, <space>:chunks, <space>:tokens (stored now), <space>:texts_total,
//	           <space>:tokens_total (ever written, so that rates can be had from two readings)
//	answer     one element: a line of JSON, {"tokens": n, "truncated": b} or {"error": "...", "code": "..."},
//	           ended by \n; after the first form the vector, float32 little-endian
//
// # Writing
//
// Each write is part of one script and one round trip, which it may share with others; it is done whole or not
// at all, and leaves the same state when it is repeated; a client that lost a reply may just call again. Of two
// records of a document the one with the higher version wins; of equal versions the greater text hash, so that
// the order of arrival never decides.
//
// # Memory
//
// Measured on Redis 7.0 (BenchmarkMemory) with one chunk of 384 dimensions, 100 bytes of text and 130 of
// metadata: 2,977 bytes per document, all keys included, of which the vector is 1,536; 600,000 documents
// are 1.8 GB. With the server's setting "hash-max-listpack-value 4096" (in 6.2: hash-max-ziplist-value) a
// document is one allocation instead of sixteen: 2,305 bytes, 1.4 GB, at the same speed.
package redis
