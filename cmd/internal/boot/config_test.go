package boot_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/embedfleet/embedfleet/cmd/internal/boot"
)

type settings struct {
	count   int
	timeout time.Duration
	url     string
	lanes   []string
	level   string
	loud    bool
}

func resolve(t *testing.T, args []string, env map[string]string) (settings, *boot.Config, error) {
	t.Helper()
	var s settings
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	c := boot.New(flags)
	c.Int(&s.count, "count", 4, [2]int{1, 64}, "a count")
	c.Duration(&s.timeout, "task-timeout", time.Minute, [2]time.Duration{time.Second, time.Hour}, "a time")
	c.String(&s.url, "redis-url", "redis://localhost", "a secret", boot.Env("REDIS_URL"), boot.Secret)
	c.Strings(&s.lanes, "lanes", []string{"query"}, "lanes")
	c.Choice(&s.level, "level", "info", []string{"info", "warn"}, "level")
	c.Bool(&s.loud, "loud", "a switch")
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return s, c, c.Resolve(func(k string) (string, bool) { v, ok := env[k]; return v, ok })
}

func TestResolve(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		args    []string
		env     map[string]string
		problem []string // all must be named; none = valid
	}{
		{name: "defaults"},
		{name: "flag beats a bad environment", args: []string{"--count", "5"}, env: map[string]string{"EMBEDFLEET_COUNT": "x"}},
		{name: "empty variable is unset", env: map[string]string{"EMBEDFLEET_COUNT": ""}},
		{name: "switches as others write them", env: map[string]string{"EMBEDFLEET_LOUD": "YES"}},
		{name: "no switch", env: map[string]string{"EMBEDFLEET_LOUD": "perhaps"}, problem: []string{"$EMBEDFLEET_LOUD", "perhaps"}},
		{name: "out of range", args: []string{"--count", "65"}, problem: []string{"--count", "65", "between 1 and 64"}},
		{name: "bad variable", env: map[string]string{"EMBEDFLEET_TASK_TIMEOUT": "soon"}, problem: []string{"$EMBEDFLEET_TASK_TIMEOUT"}},
		{
			name: "every problem is listed", args: []string{"--level", "trace"}, env: map[string]string{"EMBEDFLEET_COUNT": "0", "EMBEDFLEET_TASK_TIMEOUT": "1ms"},
			problem: []string{"$EMBEDFLEET_COUNT", "$EMBEDFLEET_TASK_TIMEOUT", "between 1s and 1h", "--level", `"trace"`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := resolve(t, tt.args, tt.env)
			if (err != nil) != (len(tt.problem) > 0) {
				t.Fatalf("error = %v", err)
			}
			if err != nil && !errors.Is(err, boot.ErrUsage) {
				t.Errorf("%v does not wrap ErrUsage", err)
			}
			for _, want := range tt.problem {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name %q", err, want)
				}
			}
		})
	}
}

func TestEnvironmentFillsWhatFlagsLeft(t *testing.T) {
	t.Parallel()
	var s settings
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	c := boot.New(flags)
	c.String(&s.url, "redis-url", "", "url", boot.Env("REDIS_URL"))
	c.Strings(&s.lanes, "lanes", nil, "lanes")
	env := map[string]string{"REDIS_URL": "redis://a", "EMBEDFLEET_LANES": "live,query"}
	if err := c.Resolve(func(k string) (string, bool) { v, ok := env[k]; return v, ok }); err != nil {
		t.Fatal(err)
	}
	if s.url != "redis://a" || strings.Join(s.lanes, " ") != "live query" {
		t.Errorf("got %+v", s)
	}
	if !strings.Contains(flags.FlagUsages(), "$EMBEDFLEET_REDIS_URL, $REDIS_URL") {
		t.Error("help does not name the variables of --redis-url")
	}
}

func TestSecretsStayOutOfTheLog(t *testing.T) {
	t.Parallel()
	_, c, err := resolve(t, []string{"--redis-url", "redis://:hunter2@h"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	boot.Log{Level: "info", Format: "json"}.Logger(&out).Info("configuration", c.Attrs()...)
	if s := out.String(); strings.Contains(s, "hunter2") || !strings.Contains(s, `"redis-url":"(set)"`) {
		t.Errorf("log line: %s", s)
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"EMBEDFLEET_CACHE": "/c", "HOME": "/h"}, "/c"},
		{map[string]string{"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/embedfleet"},
		{map[string]string{"HOME": "/h"}, "/h/.cache/embedfleet"},
	} {
		got, err := boot.Cache(func(k string) (string, bool) { v, ok := tt.env[k]; return v, ok })
		if err != nil || got != tt.want {
			t.Errorf("Cache(%v) = %q, %v, want %q", tt.env, got, err, tt.want)
		}
	}
	if _, err := boot.Cache(func(string) (string, bool) { return "", false }); !errors.Is(err, boot.ErrUsage) {
		t.Errorf("without a home: %v", err)
	}
}
