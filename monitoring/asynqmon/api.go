package asynqmon

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

const (
	// maxSize is the most tasks of one answer: each is read, decompressed and cut (docs/asynq.md 4).
	maxSize = 100
	// maxPage keeps the offset of a list within what Redis counts with.
	maxPage = 1_000_000
)

// api answers what the page asks for in the background.
func (h *Handler) api(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && !h.mayAct(w, r) {
		return
	}
	if strings.HasSuffix(r.URL.Path, "/api/metrics") { // upstream would ask a Prometheus, and there is none
		http.Error(w, "no such address", http.StatusNotFound)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	r = clamped(r)
	var b answer
	h.page.ServeHTTP(&b, r)
	if b.status == http.StatusInternalServerError && strings.Contains(b.body.String(), "queue not found") {
		b.status = http.StatusNotFound // a link to a lane that has gone is nobody's failure
	}
	if b.status >= http.StatusInternalServerError { // upstream's words hold Redis's address
		h.log.WarnContext(r.Context(), "queue page request failed", "path", r.URL.Path, "err", strings.TrimSpace(b.body.String()))
		http.Error(w, "the queues can't be read now; the monitor's log says why", http.StatusServiceUnavailable)
		return
	}
	if b.status >= http.StatusBadRequest || b.body.Len() == 0 || b.body.Len() > maxAnswer {
		if b.status < http.StatusBadRequest {
			w.Header().Set("Content-Type", "application/json")
		} else {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		}
		b.send(w)
		return
	}
	body, ok := withLanes(b.body.Bytes())
	if !ok { // upstream answers an address it does not know with its page
		http.Error(w, "no such address", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(b.status)
	_, _ = w.Write(body) // the browser went away
}

// mayAct reports whether the request may change something, and has answered if it may not. What it lets pass is
// in the log with its author.
func (h *Handler) mayAct(w http.ResponseWriter, r *http.Request) bool {
	name, may := h.operator(r)
	switch {
	case !may:
		http.Error(w, "read-only: this page shows the queues and changes nothing", http.StatusMethodNotAllowed)
		return false
	case strings.HasSuffix(r.URL.Path, ":archive_all"):
		// asynq's archive keeps 10,000 tasks and forgets the rest without a word; dead letters are ours.
		http.Error(w, "archiving a whole lane would lose tasks: drop or replay dead letters on the fleet page", http.StatusForbidden)
		return false
	}
	h.log.InfoContext(r.Context(), "queue page action", "who", name, "method", r.Method, "path", r.URL.Path)
	return true
}

// clamped returns r with the page's size and number within bounds; what is no number is upstream's default.
func clamped(r *http.Request) *http.Request {
	values := r.URL.Query()
	bounds := map[string]int{"size": maxSize, "page": maxPage}
	for name, most := range bounds {
		if !values.Has(name) {
			continue
		}
		n, err := strconv.Atoi(values.Get(name))
		if err != nil {
			values.Del(name)
			continue
		}
		values.Set(name, strconv.Itoa(min(max(n, 1), most)))
	}
	out := r.Clone(r.Context())
	out.URL.RawQuery = values.Encode()
	return out
}

// withLanes returns an answer with each payload's lane written into it, which upstream tells no formatter: it is
// in the queue's name beside the payload. It reports false for what is not JSON.
func withLanes(body []byte) ([]byte, bool) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber() // sizes and times come out as they went in
	var value any
	if err := dec.Decode(&value); err != nil {
		return nil, false
	}
	addLanes(value)
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // the type is JSON, and React writes text
	if err := enc.Encode(value); err != nil {
		return nil, false
	}
	return out.Bytes(), true
}

func addLanes(value any) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			addLanes(item)
		}
	case map[string]any:
		queue, _ := v["queue"].(string)
		for name, item := range v {
			text, ok := item.(string)
			if ok && (name == "payload" || name == "task_payload") {
				v[name] = withLane(text, queue)
				continue
			}
			addLanes(item)
		}
	}
}

// withLane puts the lane of a queue ("embed:minilm:live") first into a payload that [Payload] wrote.
func withLane(payload, queue string) string {
	at := strings.LastIndexByte(queue, ':')
	if !strings.HasPrefix(payload, `{"kind":`) || at < 0 {
		return payload
	}
	lane, err := json.Marshal(queue[at+1:])
	if err != nil {
		return payload
	}
	return `{"lane":` + string(lane) + "," + payload[1:]
}
