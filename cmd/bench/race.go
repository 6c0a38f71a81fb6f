package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// turn is how long one racer runs before the next one's turn.
const turn = 200 * time.Millisecond

// Between a racer and the bench: the one says on its standard output that it is warm, the other then starts it by a line.
const warmLine = "warm\n"

// awaitStart is called by a racer when it is warm. It returns when its clock may start.
func awaitStart() {
	_, _ = io.WriteString(os.Stdout, warmLine)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
}

// A racer is a contestant whose process group can be stopped and continued.
type racer struct {
	cmd   *exec.Cmd
	start io.WriteCloser
	out   *bufio.Reader

	ended   chan struct{} // closed when it has given its measure, or failed to
	measure measure
	err     error

	turns  []span // when it ran
	waited bool
}

// A span is a stretch of time.
type span struct{ from, to time.Time }

// race runs contestants in the same seconds, by turns of a fifth of a second, and returns their measures with the
// time in which they ran. Their rates can be compared to a per cent although the machine's speed changes by ten within a
// minute, which it does under all. What a racer's machine does meanwhile by itself (writing to disk what its Redis
// appended) falls into the turns of all.
func race(ctx context.Context, cmds ...*exec.Cmd) (measures []measure, err error) {
	racers := make([]*racer, len(cmds))
	defer func() {
		for _, r := range racers {
			if r != nil {
				err = errors.Join(err, r.end())
			}
		}
	}()
	for i, cmd := range cmds {
		if racers[i], err = newRacer(cmd); err != nil {
			return nil, err
		}
	}
	for _, r := range racers {
		if err := r.release(); err != nil {
			return nil, err
		}
	}
	if err := alternate(ctx, racers); err != nil {
		return nil, err
	}
	for _, r := range racers {
		if err := r.end(); err != nil {
			return nil, err
		}
		m := r.measure
		m.Seconds = within(r.turns, span{m.Began, m.Began.Add(time.Duration(m.Seconds * float64(time.Second)))}).Seconds()
		m.PeakKB = max(m.PeakKB, peakKB(r.cmd.ProcessState))
		measures = append(measures, m)
	}
	return measures, nil
}

// newRacer starts a contestant, waits until it is warm, and stops it.
func newRacer(cmd *exec.Cmd) (r *racer, err error) {
	r = &racer{cmd: cmd, ended: make(chan struct{})}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return errors.Join(r.signal(syscall.SIGTERM), r.signal(syscall.SIGCONT)) }
	if r.start, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := r.out.ReadString('\n')
	if err == nil && line != warmLine {
		err = fmt.Errorf("it said %q, not that it is warm", line)
	}
	if err == nil {
		err = r.signal(syscall.SIGSTOP)
	}
	if err != nil {
		close(r.ended)
		return r, err
	}
	go r.read()
	return r, nil
}

// release lets the clock start with the racer's first turn.
func (r *racer) release() error {
	_, err := io.WriteString(r.start, "go\n")
	return err
}

// read reads the measure.
func (r *racer) read() {
	defer close(r.ended)
	if err := json.NewDecoder(r.out).Decode(&r.measure); err != nil {
		r.err = fmt.Errorf("reading its measure: %w", err)
	}
}

// signal reaches all of the racer's processes.
func (r *racer) signal(s syscall.Signal) error { return syscall.Kill(-r.cmd.Process.Pid, s) }

// end waits for the racer's processes, which end by themselves unless something has failed; then it ends them.
func (r *racer) end() error {
	if r.waited {
		return nil
	}
	r.waited = true
	select {
	case <-r.ended:
	default:
		_ = r.cmd.Cancel()
	}
	return r.cmd.Wait()
}

// alternate gives each racer its turns until all have ended, or one has failed.
func alternate(ctx context.Context, racers []*racer) error {
	for left := len(racers); left > 0; {
		left = 0
		for _, r := range racers {
			select {
			case <-r.ended:
				if r.err != nil {
					return r.err
				}
				continue
			default:
				left++
			}
			if err := r.run(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// run lets the racer run for its turn, or to its end.
func (r *racer) run(ctx context.Context) error {
	from := time.Now()
	if err := r.signal(syscall.SIGCONT); err != nil {
		return err
	}
	timer := time.NewTimer(turn)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ended: // what is left of it closes files; it does so beside the other's next turn
	case <-timer.C:
		if err := r.signal(syscall.SIGSTOP); err != nil {
			return err
		}
	}
	r.turns = append(r.turns, span{from, time.Now()})
	return nil
}

// within returns how much of a stretch of time lies in the turns.
func within(turns []span, s span) time.Duration {
	var sum time.Duration
	for _, t := range turns {
		from, to := t.from, t.to
		if s.from.After(from) {
			from = s.from
		}
		if s.to.Before(to) {
			to = s.to
		}
		sum += max(0, to.Sub(from))
	}
	return sum
}
