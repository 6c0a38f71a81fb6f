package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// decode reads the body into v: one JSON value and nothing behind it, since half of two requests in one body
// would be lost without a word. Fields that v lacks are passed over.
func decode(r *http.Request, v any) error { return read(json.NewDecoder(r.Body), v) }

// decodeStrictly refuses fields that v lacks too, which are typing errors.
func decodeStrictly(r *http.Request, v any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	return read(dec, v)
}

func read(dec *json.Decoder, v any) error {
	err := dec.Decode(v)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = errors.New("there is something behind the JSON value")
		}
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return err
	}
	if own, ok := errors.AsType[*requestError](err); ok {
		return own
	}
	return badRequest("reading the body: %v", err)
}
