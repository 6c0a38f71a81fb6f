package gateway

import (
	"crypto/rand"
	"net/http"
	"regexp"
)

// requestHeader is the header in which OpenAI's clients look for a request's id, and in which proxies hand
// theirs on.
const requestHeader = "X-Request-ID"

// askedID is what may come from outside and go into a log: no spaces, no control characters, not too long.
var askedID = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)

// requestID returns the id that the caller gave its request, or a new one.
func requestID(r *http.Request) string {
	if id := r.Header.Get(requestHeader); askedID.MatchString(id) {
		return id
	}
	return rand.Text()
}
