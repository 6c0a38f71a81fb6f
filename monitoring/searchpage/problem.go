package searchpage

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/embedfleet/embedfleet/search"
	"github.com/embedfleet/embedfleet/store"
)

// A problem is why there is no answer, and what to do about it, for people.
type problem struct {
	Status int
	Says   string
	Do     string
	After  time.Duration // when to try again, 0 if there is no telling
	Ours   bool          // the fleet's fault, not the question's
}

// after is the header Retry-After.
func (p *problem) after() string { return strconv.Itoa(max(1, int(p.After.Seconds()+0.5))) }

// gone is the status of an answer that nobody waits for; nginx's number.
const gone = 499

// explain is the one table from error to words. Details that are not for the page go to the log.
func (p *Page) explain(ctx context.Context, err error) *problem {
	var (
		permanent  interface{ Permanent() bool }
		overloaded interface{ Overloaded() bool }
	)
	switch {
	case errors.Is(err, context.Canceled):
		return &problem{Status: gone, Says: "The search was given up."}
	case errors.Is(err, store.ErrNotFound):
		return &problem{Status: http.StatusNotFound, Says: "That document is not stored any more.",
			Do: "It was deleted, or awaits embedding by a new model. Search for its title instead."}
	case errors.As(err, &overloaded) && overloaded.Overloaded():
		return &problem{Status: http.StatusServiceUnavailable, Ours: true, After: 5 * time.Second,
			Says: "The query lane is busy: too many searches wait.",
			Do:   "Try again in some seconds. If it stays so, more workers are needed; the fleet page shows the lane."}
	case errors.Is(err, search.ErrNoAnswer):
		return &problem{Status: http.StatusServiceUnavailable, Ours: true, After: 10 * time.Second,
			Says: "No worker answered in time.",
			Do:   "Workers are loading, busy or away; the fleet page shows which. “More like this” and the map need none."}
	case errors.As(err, &permanent) && permanent.Permanent():
		return &problem{Status: http.StatusUnprocessableEntity, Says: "This text can't be searched for: " + err.Error() + ".",
			Do: "Change the text."}
	default:
		p.log.WarnContext(ctx, "searching for a page failed", "err", err)
		return &problem{Status: http.StatusServiceUnavailable, Ours: true, After: 10 * time.Second,
			Says: "The fleet's store can't be reached.",
			Do:   "The monitor's log says why. Nothing is lost: try again when Redis is back."}
	}
}
