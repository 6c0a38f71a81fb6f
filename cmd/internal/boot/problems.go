package boot

import (
	"errors"
	"fmt"
)

// Problems collects what is wrong with a command line beyond what [Config.Resolve] can see, so that a person
// hears of all of it at once.
type Problems []error

// Add notes a problem of a flag, unless err is nil.
func (p *Problems) Add(flag string, err error) {
	if err != nil {
		*p = append(*p, fmt.Errorf("--%s: %w", flag, err))
	}
}

// Addf notes a problem of a flag.
func (p *Problems) Addf(flag, format string, args ...any) { p.Add(flag, fmt.Errorf(format, args...)) }

// Err returns all of them as one [ErrUsage], one a line, after those of resolved, the error of
// [Config.Resolve]; nil if there are none.
func (p *Problems) Err(resolved error) error {
	switch {
	case len(*p) == 0:
		return resolved
	case resolved != nil:
		return errors.Join(append([]error{resolved}, *p...)...)
	default:
		return fmt.Errorf("%w: %w", ErrUsage, errors.Join(*p...))
	}
}
