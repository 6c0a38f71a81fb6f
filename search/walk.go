package search

import (
	"context"
	"errors"
	"fmt"

	"github.com/embedfleet/embedfleet/store"
	"github.com/embedfleet/embedfleet/vector"
)

// walkBatch is how many documents one round trip of Walk brings: a few megabytes.
const walkBatch = 100

// Walk calls each with every document that src has of an alias in a space, oldest change first, until it returns an error.
// A document that changes meanwhile may come twice. Documents that make no sense are left out, and told in the end.
func Walk(ctx context.Context, src store.Source, alias string, space vector.Space, each func(vector.Record) error) error {
	var bad []error
	for at := int64(0); ; {
		changes, err := src.Changes(ctx, store.Cursor{Model: alias, Space: space, Seq: at, Limit: walkBatch})
		if err != nil {
			return fmt.Errorf("reading documents of %q: %w", alias, err)
		}
		for _, c := range changes.Items {
			at = c.Seq
			if c.Err != nil && len(bad) < 10 {
				bad = append(bad, c.Err)
			}
			if c.Record == nil {
				continue
			}
			if err := each(*c.Record); err != nil {
				return err
			}
		}
		if len(changes.Items) < walkBatch {
			return errors.Join(bad...)
		}
	}
}
