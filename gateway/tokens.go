package gateway

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// minToken is how short a token may be: what is shorter can be guessed.
const minToken = 16

// ReadTokens reads a file of tokens: one a line, blank lines and those that begin with # apart. Errors name the
// line and not what is in it.
func ReadTokens(r io.Reader) ([]string, error) {
	var list []string
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		token := strings.TrimSpace(lines.Text())
		if token == "" || token[0] == '#' {
			continue
		}
		if len(token) < minToken || strings.ContainsAny(token, " \t") {
			return nil, fmt.Errorf("line %d: a token is one word of %d characters or more", n, minToken)
		}
		list = append(list, token)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("there is no token in it")
	}
	return list, nil
}

// Tokens lets only callers through that bring one of the tokens, as "Authorization: Bearer TOKEN". Without a token
// everybody passes.
func Tokens(next http.Handler, tokens []string) http.Handler {
	if len(tokens) == 0 {
		return next
	}
	known := digests(tokens)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !known.has(bearer(r)) {
			e := &requestError{status: http.StatusUnauthorized, code: "invalid_api_key", message: "want one of this gateway's tokens as Authorization: Bearer TOKEN"}
			w.Header().Set("WWW-Authenticate", "Bearer")
			send(w, e.status, e.openAI())
			return
		}
		next.ServeHTTP(w, r)
	})
}

// AtMost lets n requests through at a time; more are told to come back, lest each of them waits for a connection to
// Redis until it times out.
func AtMost(next http.Handler, n int) http.Handler {
	places := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
			next.ServeHTTP(w, r)
		default:
			e := &requestError{
				status: http.StatusServiceUnavailable, code: "overloaded", after: soon,
				message: fmt.Sprintf("%d requests are under way, as many as this gateway takes", n),
			}
			e.retryAfter(w.Header())
			send(w, e.status, e.openAI())
		}
	})
}

// tokenDigests stand for tokens, so that comparing takes the same time for all of them.
type tokenDigests [][sha256.Size]byte

func digests(tokens []string) (list tokenDigests) {
	for _, token := range tokens {
		list = append(list, sha256.Sum256([]byte(token)))
	}
	return list
}

func (d tokenDigests) has(token string) bool {
	sum := sha256.Sum256([]byte(token))
	found := 0
	for i := range d {
		found |= subtle.ConstantTimeCompare(d[i][:], sum[:])
	}
	return found == 1 && token != ""
}

// bearer returns the token that a request brings, "" for none.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
