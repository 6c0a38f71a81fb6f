// Package jsonapi crawls any interface that answers with JSON, as a configuration describes it: an address with
// places for page and days, and where in an answer the items, their ids and texts are. It owns the walk over pages
// and JSON Pointer, and refuses to know when it is called and where anything is kept.
package jsonapi
