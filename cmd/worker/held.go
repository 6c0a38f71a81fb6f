package main

// held reports whether the queue holds this worker's lanes back; not before it serves.
func (w *worker) held() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.consumer == nil {
		return false
	}
	_, cause := w.consumer.Held()
	return cause != nil
}
