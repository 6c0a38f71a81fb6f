package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// params are a request's query parameters. Reading is strict: one that is not known, or is there twice without being a list, is
// refused, for a search whose filter was ignored looks like an answer.
type params struct {
	values url.Values
	err    error
}

// readParams reads the parameters of r, of which those in known may be there; a name with "..." behind it may be repeated.
func readParams(r *http.Request, known ...string) *params {
	values, err := url.ParseQuery(r.URL.RawQuery)
	p := &params{values: values}
	if err != nil {
		p.err = badRequest("reading the query parameters: %v", err)
		return p
	}
	for name, list := range values {
		many := slices.Contains(known, name+"...")
		if !many && !slices.Contains(known, name) {
			p.fail(wrongParam(name, "unknown_parameter", "there is no query parameter %q here, but %s", name, strings.ReplaceAll(strings.Join(known, ", "), "...", "")))
		}
		if !many && len(list) > 1 {
			p.fail(wrongParam(name, "bad_request", "query parameter %q is there %d times", name, len(list)))
		}
		for _, v := range list {
			if !validUTF8(v) {
				p.fail(wrongParam(name, "bad_request", "query parameter %q is not UTF-8", name))
			}
		}
	}
	return p
}

func (p *params) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// text returns a parameter, "" if it is not there.
func (p *params) text(name string) string { return p.values.Get(name) }

// list returns a parameter that may be repeated.
func (p *params) list(name string) []string { return p.values[name] }

// number returns a whole number from low to high, or byDefault.
func (p *params) number(name string, byDefault, low, high int) int {
	s := p.values.Get(name)
	if !p.values.Has(name) {
		return byDefault
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		p.fail(wrongParam(name, "bad_request", "%s is %q, want a number from %d to %d", name, s, low, high))
		return byDefault
	}
	return n
}

// yes returns a switch.
func (p *params) yes(name string) bool {
	switch s := p.values.Get(name); {
	case !p.values.Has(name), s == "false":
	case s == "true":
		return true
	default:
		p.fail(wrongParam(name, "bad_request", "%s is %q, want true or false", name, s))
	}
	return false
}

// seconds returns a number of seconds from 0 to most.
func (p *params) seconds(name string, most time.Duration) time.Duration {
	return time.Duration(p.number(name, 0, 0, int(most/time.Second))) * time.Second
}

// choice returns one of words, the first by default.
func (p *params) choice(name string, words ...string) string {
	s := p.values.Get(name)
	if !p.values.Has(name) {
		return words[0]
	}
	if !slices.Contains(words, s) {
		p.fail(wrongParam(name, "bad_request", "%s is %q, want one of %s", name, s, strings.Join(words, ", ")))
		return words[0]
	}
	return s
}
