package page

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/words"
	"github.com/embedfleet/embedfleet/queue"
	"github.com/embedfleet/embedfleet/tasks"
)

// countTimeout bounds the count of waiting texts: a source among millions of them is counted that long.
const countTimeout = 4 * time.Second

// Waiting are the texts that wait; *queue.Lanes is one.
type Waiting interface {
	// CountWaiting returns how many f holds, and with an error how many it had seen until then.
	CountWaiting(ctx context.Context, model string, f queue.Filter) (int, error)
}

// Waiting returns which waiting texts an order is about.
func (o Order) Waiting() queue.Filter {
	var f queue.Filter
	switch {
	case o.Lane != "":
		f.Lanes = []tasks.Lane{o.Lane}
	case o.Do == ForgetModel:
		f.Lanes = tasks.Lanes
	case o.Do == MoveWaiting: // what is there already does not move
		f.Lanes = slices.DeleteFunc([]tasks.Lane{tasks.Live, tasks.Backfill}, func(l tasks.Lane) bool { return l == o.To })
	}
	if o.Source != "" {
		f.Sources = []string{o.Source}
	}
	if o.ID != "" {
		f.IDs = []string{o.ID}
	}
	return f
}

// texts says in words which waiting texts an order is about.
func texts(o Order) string {
	f := o.Waiting()
	s := "waiting texts of " + o.Model
	if o.Source == "" && o.ID == "" {
		s = "all " + s
	}
	switch len(f.Lanes) {
	case 0:
		s += ", lanes live and backfill"
	case 1:
		s += ", lane " + string(f.Lanes[0])
	}
	if o.Source != "" {
		s += ", source " + o.Source
	}
	if o.ID != "" {
		s += ", document or task " + o.ID
	}
	return s
}

func needsMove(o Order) error {
	switch err := needsModel(o); {
	case err != nil:
		return err
	case o.To != tasks.Live && o.To != tasks.Backfill:
		return fmt.Errorf("lane %q to move to is none of %s, %s", o.To, tasks.Live, tasks.Backfill)
	case o.Lane == o.To:
		return fmt.Errorf("texts of lane %s are there already", o.To)
	case o.Lane == tasks.Query:
		return errors.New("search texts can't be moved: who asked waits for the answer")
	}
	return nil
}

// A choice is a field that narrows which waiting texts an order is about.
type choice struct {
	Name, Label, Value string
	Options            []option // none: any text
}

// An option is one of those that a choice has.
type option struct{ Value, Text string }

// choices are the fields of those names, as an order has them filled in.
func choices(names []string, o Order) (list []choice) {
	for _, name := range names {
		c := choice{Name: name}
		switch name {
		case "lane":
			c.Label, c.Value, c.Options = "Lane", string(o.Lane), []option{{"", "live and backfill"}}
			for _, l := range tasks.Lanes {
				if o.Do != MoveWaiting || l != tasks.Query {
					c.Options = append(c.Options, option{string(l), string(l)})
				}
			}
		case "to":
			c.Label, c.Value = "To lane", string(o.To)
			for _, l := range []tasks.Lane{tasks.Live, tasks.Backfill} {
				c.Options = append(c.Options, option{string(l), string(l)})
			}
		case "source":
			c.Label, c.Value = "Source", o.Source
		case "id":
			c.Label, c.Value = "Document or task", o.ID
		}
		list = append(list, c)
	}
	return list
}

// holds says in words how much an order is about now, and whether that is nothing.
func (p *Page) holds(ctx context.Context, o Order) (said string, none bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	n, err := p.parts.Waiting.CountWaiting(ctx, o.Model, o.Waiting())
	sum := words.Plural(int64(n), "waiting text")
	switch {
	case err != nil && (n == 0 || ctx.Err() == nil):
		return "", false, err
	case err != nil:
		sum = "at least " + sum + " (counting all takes too long)"
	}
	if o.Do == ForgetModel {
		s, _ := p.parts.Fleet.Snapshot()
		return fmt.Sprintf("The queue holds %s and %s of it now.", sum, words.Plural(s.Total(o.Model).Dead, "dead letter")), false, nil
	}
	if n == 0 {
		return "No waiting text fits this choice.", true, nil
	}
	return fmt.Sprintf("This choice holds %s now.", sum), false, nil
}
