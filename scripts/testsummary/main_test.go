package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, events string
		ok           bool
		want         []string
		wantNot      string
	}{
		{
			name: "pass and skip",
			events: `{"Action":"output","Package":"p","Test":"TestA","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:3: no redis-server in PATH\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"pass","Package":"p","Elapsed":1.5}`,
			ok:      true,
			want:    []string{"ok    p", "skip  p TestB: b_test.go:3: no redis-server in PATH", "1 passed, 0 failed, 1 skipped"},
			wantNot: "noise",
		},
		{
			name: "failed test",
			events: `{"Action":"output","Package":"p","Test":"TestA","Output":"got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`,
			want: []string{"got 1, want 2", "FAIL  p", "1 of them failed", "0 passed, 1 failed"},
		},
		{
			name: "timeout leaves a test without end",
			events: `{"Action":"output","Package":"p","Test":"TestA","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"p"}`,
			want: []string{"panic: test timed out", "1 of them failed"},
		},
		{
			name: "build failure",
			events: `{"ImportPath":"p","Action":"build-output","Output":"a.go:1: syntax error\n"}
{"Action":"fail","Package":"p"}`,
			want: []string{"a.go:1: syntax error", "FAIL  p"},
		},
		{name: "line that is no event", events: "go: cannot find main module", want: []string{"cannot find main module"}},
		{name: "nothing", events: ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			s := newSummary(&out)
			if err := s.read(strings.NewReader(tt.events)); err != nil {
				t.Fatal(err)
			}
			if ok := s.finish(s.start); ok != tt.ok {
				t.Errorf("finish = %v, want %v", ok, tt.ok)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("summary lacks %q:\n%s", want, out.String())
				}
			}
			if tt.wantNot != "" && strings.Contains(out.String(), tt.wantNot) {
				t.Errorf("summary shows %q:\n%s", tt.wantNot, out.String())
			}
		})
	}
}
