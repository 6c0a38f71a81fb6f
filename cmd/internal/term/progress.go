// Package term shows progress and tables to people: a moving bar on a terminal, plain lines elsewhere.
package term

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	xterm "golang.org/x/term"
)

// plainEvery is the time between two lines where no terminal shows a bar.
const plainEvery = 2 * time.Second

// A Progress shows how much of a known amount of work is done.
type Progress struct {
	w     io.Writer
	what  string
	total int
	bar   *progressbar.ProgressBar // nil: plain lines
	begun time.Time
	shown time.Time
	now   func() time.Time
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && xterm.IsTerminal(int(f.Fd()))
}

// NewProgress returns a display of total pieces of what on w.
func NewProgress(w io.Writer, what string, total int) *Progress {
	p := &Progress{w: w, what: what, total: total, begun: time.Now(), shown: time.Now(), now: time.Now}
	if IsTerminal(w) {
		p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what),
			progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("texts"),
			progressbar.OptionFullWidth(), progressbar.OptionThrottle(65*time.Millisecond), progressbar.OptionSetPredictTime(true))
	}
	return p
}

// Set says that done pieces are finished.
func (p *Progress) Set(done int) {
	if p.bar != nil {
		_ = p.bar.Set(done) // a bar that can't be drawn must not stop the work
		return
	}
	now := p.now()
	if done < p.total && now.Sub(p.shown) < plainEvery {
		return
	}
	p.shown = now
	fmt.Fprintf(p.w, "%s: %d of %d (%d %%), %.0f/s\n", p.what, done, p.total, 100*done/max(p.total, 1), float64(done)/max(now.Sub(p.begun).Seconds(), 1e-3))
}

// Done ends the display so that the next line begins at the left.
func (p *Progress) Done() {
	if p.bar != nil {
		_ = p.bar.Finish()
		fmt.Fprintln(p.w)
	}
}
