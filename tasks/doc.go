// Package tasks is the contract between a producer and a worker: what a task says, how it is named, when
// it is refused, and what handling it means. It knows no queue, no model and no store; the seams it
// needs ([Embedder], [Store], [Answers]) are declared here and implemented elsewhere.
//
// # The wire contract, version 1
//
// A task is a kind, an id, a model alias, a lane, a timeout, perhaps a time at which it expires (the queue's
// header "expires_at", RFC 3339) and a payload. The payload is one JSON object
// in UTF-8; if it were longer than 16 kB ([CompressAbove]) it is one zstd frame of that object instead
// (RFC 8878; the first byte tells: 0x7B for JSON, 0x28 for zstd). Workers refuse a frame that would
// decompress to more than 8 MiB. Workers of other languages need nothing else than this page.
//
// Kind "embed:document" (testdata/embed_v1.json):
//
//	{
//	  "v": 1,
//	  "model": "minilm",
//	  "version": 1641180600000000000,
//	  "document": {"id": "dart:20220103000001", "text": "...", "title": "...", "source": "dart",
//	               "url": "https://...", "published_at": "2022-01-03T03:30:00Z",
//	               "stock_codes": ["005930"], "fields": {"kind": "filing"}}
//	}
//
// Kind "embed:query" (testdata/query_v1.json):
//
//	{"v": 1, "model": "minilm", "text": "...", "expires_at": "2022-01-03T03:30:30Z"}
//	{"v": 2, "model": "minilm", "text": "...", "prompt": "document"}
//
// The second form (testdata/query_v2.json) has "prompt": "document" for the prompt of documents, "none" for no prompt.
//
// Only v, model, version, document.id and document.text must be present (v, model and text in a query).
// A version is an integer, 1 or more; the highest version of a document wins, whatever order the
// tasks run in. The answer to a query is handed to [Answers] under the task's id.
//
// The alias in the payload must be the one the worker serves: a task that strayed into another model's
// lane would otherwise be stored with vectors of the wrong space.
//
// # Strictness
//
// An unknown field is a permanent error, since a worker that ignores what it does not understand loses it
// silently. A version v the worker does not know is not: during a roll-out old workers meet new payloads,
// so a task with a [VersionError] is set aside for a newer worker and holds nobody back. Any new field therefore needs a new v.
//
// A worker checks a payload by the same rules as [New] does, for a producer need not have used this
// package.
//
// # Identity
//
// A document task's id is the first 16 bytes, in hex, of SHA-256 over the strings "embedfleet/task/v1",
// alias, document id and text hash, each preceded by its length as a big-endian 64-bit integer. The same
// text of the same document is thus the same task, and a second one while the first is pending is a
// success for its producer (docs/asynq.md T15, T16). A query's id is random.
//
// # Text
//
// Texts are kept byte by byte with one exception: conjoining Hangul jamo are composed ([ComposeHangul]),
// because no Korean vocabulary knows them and every decomposed word would become one and the same unknown
// token. Everything else stays, compatibility ideographs and lone combining marks included; NFC would
// change the first to characters the vocabularies lack.
package tasks
