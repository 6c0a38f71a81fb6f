// Package hub turns the id of a Hugging Face repository into a verified folder on disk: the files a loader
// needs, each with the size and digest the hub names, in the cache layout that huggingface_hub keeps, so
// that either program uses what the other has brought.
//
//	CACHE/models--ORG--NAME/refs/REVISION          the commit a branch or tag pointed to, written last
//	CACHE/models--ORG--NAME/blobs/DIGEST           a file's bytes, named by what they hash to
//	CACHE/models--ORG--NAME/blobs/DIGEST.incomplete  a transfer that can be resumed
//	CACHE/models--ORG--NAME/snapshots/COMMIT/PATH  relative links into blobs
//	CACHE/models--ORG--NAME/.no_exist/COMMIT/PATH  empty: the repository has no such file
//	CACHE/.locks/models--ORG--NAME/DIGEST.lock     flock(2), held while a blob is written
//
// A blob gets its name only after its digest was right, and a snapshot's folder appears with one rename
// after all its blobs are there. Whatever stops a fetch leaves an .incomplete file and no other trace.
//
// The package knows nothing of what the files mean beyond their names, reads no environment (the program
// passes endpoint, token and cache as [Options]) and never writes outside the cache. The layout and the
// hub's headers follow https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
package hub
