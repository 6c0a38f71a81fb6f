// Package boot turns flags and environment into one validated configuration, and the configuration into
// loggers and connection settings. It is the only place that reads the environment, and knows none of the
// module's rooms.
package boot

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// ErrUsage is wrapped by every error that a person mends by another command line; binaries exit with 2.
var ErrUsage = errors.New("usage")

// Usagef returns an error for a wrong command line.
func Usagef(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUsage, fmt.Errorf(format, args...))
}

// Getenv looks up one environment variable; os.LookupEnv in a binary, a map in a test.
type Getenv func(name string) (string, bool)

// A Config is a table of settings: each is a flag, the environment variables that stand in for it, a
// default, a check and a sentence of help. Fill it, hand Flags to the command, then Resolve.
type Config struct {
	flags   *pflag.FlagSet
	entries []entry
}

type entry struct {
	name   string
	env    []string
	secret bool
	check  func() error
}

// An Option changes one setting.
type Option func(*entry)

// Env names further environment variables that set the flag, after EMBEDFLEET_<FLAG>, first one found wins.
func Env(names ...string) Option { return func(e *entry) { e.env = append(e.env, names...) } }

// OnlyEnv names the environment variables that set the flag, in place of EMBEDFLEET_<FLAG>: for flags that
// mean another thing in another binary.
func OnlyEnv(names ...string) Option { return func(e *entry) { e.env = names } }

// Secret keeps the value out of logs, and lets a file hold it: where $NAME sets the flag, $NAME_FILE names
// the file, as container runtimes mount secrets.
func Secret(e *entry) { e.secret = true }

// Check adds a condition on the final value.
func Check(f func() error) Option { return func(e *entry) { e.check = f } }

// New returns a table that registers its settings on flags.
func New(flags *pflag.FlagSet) *Config { return &Config{flags: flags} }

func (c *Config) add(name string, opts []Option) {
	e := entry{name: name, env: []string{EnvName(name)}}
	for _, o := range opts {
		o(&e)
	}
	f := c.flags.Lookup(name)
	f.Usage += " [$" + strings.Join(e.env, ", $") + e.fileHelp() + "]"
	c.entries = append(c.entries, e)
}

// EnvName is the variable of a flag: --task-timeout is EMBEDFLEET_TASK_TIMEOUT.
func EnvName(flag string) string {
	return "EMBEDFLEET_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// String adds a text setting.
func (c *Config) String(p *string, name, value, help string, opts ...Option) {
	c.flags.StringVar(p, name, value, help)
	c.add(name, opts)
}

// Strings adds a comma-separated list.
func (c *Config) Strings(p *[]string, name string, value []string, help string, opts ...Option) {
	c.flags.StringSliceVar(p, name, value, help)
	c.add(name, opts)
}

// Bool adds a switch.
func (c *Config) Bool(p *bool, name, help string, opts ...Option) {
	c.flags.BoolVar(p, name, false, help)
	c.add(name, opts)
}

// Int adds a number that must lie in lo..hi.
func (c *Config) Int(p *int, name string, value int, bounds [2]int, help string, opts ...Option) {
	c.flags.IntVar(p, name, value, fmt.Sprintf("%s (%d to %d)", help, bounds[0], bounds[1]))
	c.add(name, append(opts, Check(func() error {
		if *p < bounds[0] || *p > bounds[1] {
			return fmt.Errorf("%d is not between %d and %d", *p, bounds[0], bounds[1])
		}
		return nil
	})))
}

// Duration adds a length of time that must lie in lo..hi.
func (c *Config) Duration(p *time.Duration, name string, value time.Duration, bounds [2]time.Duration, help string, opts ...Option) {
	c.flags.DurationVar(p, name, value, fmt.Sprintf("%s (%v to %v)", help, bounds[0], bounds[1]))
	c.add(name, append(opts, Check(func() error {
		if *p < bounds[0] || *p > bounds[1] {
			return fmt.Errorf("%v is not between %v and %v", *p, bounds[0], bounds[1])
		}
		return nil
	})))
}

// Choice adds a setting that takes one of a few words.
func (c *Config) Choice(p *string, name, value string, words []string, help string, opts ...Option) {
	c.flags.StringVar(p, name, value, help+" ("+strings.Join(words, ", ")+")")
	c.add(name, append(opts, Check(func() error {
		if !slices.Contains(words, *p) {
			return fmt.Errorf("%q is none of %s", *p, strings.Join(words, ", "))
		}
		return nil
	})))
}

// Resolve fills settings that no flag gave from the environment and checks all of them. Its error lists
// every problem, one a line, and wraps [ErrUsage].
func (c *Config) Resolve(getenv Getenv) error {
	var problems []error
	for _, e := range c.entries {
		from := "--" + e.name
		if f := c.flags.Lookup(e.name); !f.Changed {
			for _, name := range e.env {
				origin, value, err := e.lookup(getenv, name)
				if value == "" && err == nil {
					continue
				}
				from = "$" + origin
				if f.Value.Type() == "bool" {
					value = truth(value)
				}
				if err == nil {
					err = e.mask(value, c.flags.Set(e.name, value))
				}
				if err != nil {
					problems = append(problems, fmt.Errorf("%s: %w", from, err))
				}
				break
			}
		}
		if e.check == nil {
			continue
		}
		if err := e.check(); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", from, err))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %w", ErrUsage, errors.Join(problems...))
	}
	return nil
}

// truth reads the words that programs put into switches, Hugging Face's among them; what is none of them is
// left for the flag to refuse.
func truth(value string) string {
	switch strings.ToLower(value) {
	case "1", "on", "yes", "y", "true":
		return "true"
	case "0", "off", "no", "n", "false":
		return "false"
	}
	return value
}

// mask keeps a secret's value out of the parser's error.
func (e entry) mask(value string, err error) error {
	if e.secret && err != nil && strings.Contains(err.Error(), value) {
		return errors.New("bad value (not shown)")
	}
	return err
}

// Attrs returns the effective configuration for one log line, secrets masked.
func (c *Config) Attrs() []any {
	var out []any
	for _, e := range c.entries {
		value := c.flags.Lookup(e.name).Value.String()
		if e.secret && value != "" {
			value = "(set)"
		}
		out = append(out, slog.String(e.name, value))
	}
	return out
}
