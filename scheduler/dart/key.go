package dart

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/url"
	"strings"
)

// A Key is an API key, 40 characters. It prints as "***" wherever it is printed.
type Key string

const mask = "***"

// String hides the key.
func (Key) String() string { return mask }

// GoString hides the key from %#v.
func (Key) GoString() string { return mask }

// LogValue hides the key from structured logs.
func (Key) LogValue() slog.Value { return slog.StringValue(mask) }

// MarshalText hides the key from JSON.
func (Key) MarshalText() ([]byte, error) { return []byte(mask), nil }

// Name tells keys apart without showing them: eight digits of a hash.
func (k Key) Name() string {
	sum := sha256.Sum256([]byte("embedfleet/dart key/" + string(k)))
	return hex.EncodeToString(sum[:4])
}

// redact removes the key from a text, as it is and as it looks in a URL.
func (k Key) redact(s string) string {
	if k == "" {
		return s
	}
	for _, form := range []string{string(k), url.QueryEscape(string(k)), url.PathEscape(string(k))} {
		s = strings.ReplaceAll(s, form, mask)
	}
	return s
}

// clean returns err without the key. An HTTP client's error holds the whole URL, and whoever unwraps it
// would find it there: only causes without the key stay in the chain.
func (k Key) clean(err error) error {
	if err == nil {
		return nil
	}
	var outer *url.Error
	for errors.As(err, &outer) {
		err = outer.Err
	}
	if text := err.Error(); k.redact(text) != text {
		return errors.New(k.redact(text))
	}
	return err
}
