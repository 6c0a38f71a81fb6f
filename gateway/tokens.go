package gateway

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// minToken is how short a token may be: what is shorter can be guessed.
const minToken = 16

// A Token lets a caller in.
type Token struct {
	Name  string // for people and counts; by default drawn from the token's digest
	Quota Quota  // zero is no limit

	digest [sha256.Size]byte // so that comparing takes the same time for all of them
}

// ReadTokens reads a file of tokens: one a line, blank lines and those that begin with # apart. Behind the token may stand
// its name and its quota: name=search requests/minute=600 texts/day=100000. Errors name the line and not what is in it.
func ReadTokens(r io.Reader) ([]Token, error) {
	var list []Token
	names := map[string]bool{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		t, err := parseToken(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if names[t.Name] {
			return nil, fmt.Errorf("line %d: another token has this name, or is this token", n)
		}
		names[t.Name] = true
		list = append(list, t)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("there is no token in it")
	}
	return list, nil
}

func parseToken(line string) (Token, error) {
	words := strings.Fields(line)
	if len(words[0]) < minToken {
		return Token{}, fmt.Errorf("a token is one word of %d characters or more", minToken)
	}
	t := Token{digest: sha256.Sum256([]byte(words[0]))}
	t.Name = hex.EncodeToString(t.digest[:4])
	for _, word := range words[1:] {
		key, value, ok := strings.Cut(word, "=")
		switch {
		case !ok || value == "":
			return Token{}, fmt.Errorf("a token is one word of %d characters or more; behind it may stand name=... and quotas as requests/minute=600", minToken)
		case key == "name":
			if t.Name = value; !askedID.MatchString(value) {
				return Token{}, errors.New("name is of letters, digits, '.', '_', ':' and '-', at most 64")
			}
		default:
			if err := t.Quota.set(key, value); err != nil {
				return Token{}, err
			}
		}
	}
	return t, nil
}

// A caller is who a request is from: one of the tokens, or nobody in particular.
type caller struct {
	name  string // "" without tokens
	quota Quota
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// letIn checks where a request comes from and which token it brings. It leaves the caller in r's context.
func (g *gateway) letIn(w http.ResponseWriter, r *http.Request, op operation) error {
	if err := g.web.check(r); err != nil {
		return err
	}
	if op.open || len(g.opts.Tokens) == 0 {
		return nil
	}
	t, ok := find(g.opts.Tokens, bearer(r))
	if !ok {
		w.Header().Set("WWW-Authenticate", "Bearer")
		return &requestError{status: http.StatusUnauthorized, code: "invalid_api_key", message: "want one of this gateway's tokens as Authorization: Bearer TOKEN"}
	}
	*r = *r.WithContext(context.WithValue(r.Context(), callerKey{}, caller{t.Name, t.Quota}))
	return nil
}

// find returns the token that a caller brought.
func find(tokens []Token, brought string) (found Token, ok bool) {
	sum := sha256.Sum256([]byte(brought))
	for i := range tokens {
		if subtle.ConstantTimeCompare(tokens[i].digest[:], sum[:]) == 1 {
			found, ok = tokens[i], brought != ""
		}
	}
	return found, ok
}

// bearer returns the token that a request brings, "" for none.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// places bound how many requests are worked on at a time, since each may hold a connection to Redis; more are told to come
// back. One token does not get all of them.
type places struct {
	mu    sync.Mutex
	all   int
	each  int
	taken int
	by    map[string]int
}

func newPlaces(all, each int) *places { return &places{all: all, each: each, by: make(map[string]int)} }

func (p *places) enter(c caller) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.all {
		return overloaded("%d requests are under way, as many as this gateway takes", p.all)
	}
	if c.name != "" && p.by[c.name] >= p.each {
		return &requestError{
			status: http.StatusTooManyRequests, code: "too_many_requests", after: soon,
			message: fmt.Sprintf("%d requests of this token are under way, as many as one token may have", p.each),
		}
	}
	p.taken++
	p.by[c.name]++
	return nil
}

func (p *places) leave(c caller) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.by[c.name]--; p.by[c.name] == 0 {
		delete(p.by, c.name)
	}
}
