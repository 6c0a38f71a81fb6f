package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestTheHandbook runs every block of docs/api.md, in their order, and looks for the series it names.
func TestTheHandbook(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t)
	s.work()
	parts := strings.Split(string(text), "```http\n")[1:]
	for _, part := range parts {
		block, _, ok := strings.Cut(part, "```")
		request, answer, ok2 := strings.Cut(block, "\n\n")
		if !ok || !ok2 {
			t.Fatalf("no request and answer in %q", block)
		}
		line, body, _ := strings.Cut(request, "\n")
		method, path, _ := strings.Cut(line, " ")
		code, want, _ := strings.Cut(answer, "\n")
		status, err := strconv.Atoi(code)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if method == "GET" && status == 200 { // what was handed in takes a moment
			s.await(line, func() bool { got, _ := s.ask(method, s.api+path, body); return got == status })
		}
		got, reply := s.ask(method, s.api+path, body)
		if got != status {
			t.Errorf("%s: %d %s, want %d", line, got, reply, status)
			continue
		}
		var written, real any
		if err := json.Unmarshal([]byte(want), &written); err != nil {
			t.Fatalf("%s: the handbook's answer: %v", line, err)
		}
		if err := json.Unmarshal([]byte(reply), &real); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if err := alike(written, real, ""); err != nil {
			t.Errorf("%s: %v\n%s", line, err, reply)
		}
	}
	if len(parts) < 15 {
		t.Errorf("only %d blocks were found", len(parts))
	}
	_, metrics := s.ask("GET", s.probes+"/metrics", "")
	for _, part := range strings.Split(string(text), "| `embed_")[1:] {
		name, _, _ := strings.Cut(part, "{")
		name, _, _ = strings.Cut(name, "`")
		if !strings.Contains(metrics, "embed_"+name) {
			t.Errorf("there is no series embed_%s", name)
		}
	}
}

// alike compares an answer with what is written of it: what is written must be there. Numbers need only be
// numbers, and an ellipsis is anything, at the end of a list the rest of it.
func alike(written, real any, where string) error {
	switch w := written.(type) {
	case string:
		if w != "…" && w != real {
			return fmt.Errorf("%s is %v, the handbook has %q", where, real, w)
		}
	case float64:
		if _, ok := real.(float64); !ok {
			return fmt.Errorf("%s is %v, the handbook has a number", where, real)
		}
	case []any:
		return alikeLists(w, real, where)
	case map[string]any:
		r, ok := real.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is %v, the handbook has an object", where, real)
		}
		for name, value := range w {
			got, ok := r[name]
			if !ok {
				return fmt.Errorf("%s.%s is not there", where, name)
			}
			if err := alike(value, got, where+"."+name); err != nil {
				return err
			}
		}
	default: // true, false and null
		if written != real {
			return fmt.Errorf("%s is %v, the handbook has %v", where, real, written)
		}
	}
	return nil
}

func alikeLists(w []any, real any, where string) error {
	r, ok := real.([]any)
	if !ok {
		return fmt.Errorf("%s is %v, the handbook has a list", where, real)
	}
	for i, value := range w {
		if value == "…" && i == len(w)-1 {
			return nil
		}
		if i >= len(r) {
			return fmt.Errorf("%s has %d elements", where, len(r))
		}
		if err := alike(value, r[i], fmt.Sprintf("%s[%d]", where, i)); err != nil {
			return err
		}
	}
	if len(r) != len(w) {
		return fmt.Errorf("%s has %d elements, the handbook %d", where, len(r), len(w))
	}
	return nil
}
