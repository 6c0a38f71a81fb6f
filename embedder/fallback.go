package embedder

import (
	"context"
	"errors"
	"fmt"

	"github.com/embedfleet/embedfleet/vector"
)

// A device that runs out of memory while it serves is left for the next one of the list: its engine is
// freed, with the native calls under way told to stop, and only then is the next one loaded. Its callers
// notice a pause: they wait in the line again, before everybody else, and their texts run on the new device.
//
// Vectors of another space are another matter: whoever stores them has promised one space. A device whose
// engine has another than the first engine had does not serve; then the model is lost.

// Lost is closed when a model that has served serves no more: no device is left, or none whose vectors are
// of the same space. [Stats] say why. What the process has promised it can't keep; it should end.
func (m *Manager) Lost() <-chan struct{} { return m.lost }

// comesAgainLocked reports whether a caller with err of e must wait for another engine. The first caller
// whose device has no memory left makes the manager leave it.
func (m *Manager) comesAgainLocked(ctx context.Context, e *Engine, err error) bool {
	switch {
	case err == nil || ctx.Err() != nil:
		return false
	case m.engine == e:
		return m.state == Ready && errors.Is(err, ErrDeviceMemory) && m.leaveLocked(err)
	case m.state == Ready || m.state == Loading:
		// It was inside the engine that was left.
		return errors.Is(err, ErrDeviceMemory) || errors.Is(err, ErrClosed)
	}
	return false
}

// leaveLocked leaves the device that serves because of err. It reports false if there is none after it.
func (m *Manager) leaveLocked(err error) bool {
	if m.at+1 == len(m.devices) {
		return false
	}
	m.log.Warn("leaving a device", "device", m.devices[m.at], "err", err)
	m.refused = append(m.refused, Refusal{m.devices[m.at], err.Error()})
	m.at++
	old := m.engine
	m.engine, m.memory = nil, Memory{}
	m.door.ready = make(chan struct{})
	m.startLoadLocked(old)
	return true
}

// checkSpace refuses an engine whose vectors must not be mixed with those of space, "" meaning that there are
// none yet.
func checkSpace(space vector.Space, e *Engine, device string) error {
	if own := e.Settings().Space; space != "" && space != own {
		return fmt.Errorf("vectors of %s are of space %s, this process has served %s: begin a new process", device, own.Short(), space.Short())
	}
	return nil
}
