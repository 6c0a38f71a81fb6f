package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/embedfleet/embedfleet/internal/testkit"
)

func TestDeadLetters(t *testing.T) {
	redis := testkit.RedisServer(t)
	startWorker(t, redis)
	lines := `{"id":"d1","text":"indigestible one","source":"dart"}
{"id":"d2","text":"indigestible two","source":"news"}
{"id":"d3","text":"fine","source":"news"}`
	status, out, _ := call(t, redis, "", "dead", "list", "--model", "quote")
	expect(t, status, 0, out, "no dead letters")
	status, out, _ = call(t, redis, lines, "--model", "quote", "--wait")
	expect(t, status, 1, out, "1 stored, 2 failed")

	status, out, _ = call(t, redis, "", "status")
	expect(t, status, 0, out, "DEAD")
	status, out, _ = call(t, redis, "", "dead", "list")
	expect(t, status, 0, out, "CAUSE", "permanent  2", "DOCUMENT", "d1", "d2", "dart", "the model chokes on it")
	status, out, _ = call(t, redis, "", "dead", "list", "--source", "dart", "--json")
	expect(t, status, 0, out, `"document":"d1"`, `"causes":[{"cause":"permanent","letters":2}]`)
	if strings.Contains(out, "indigestible") || strings.Contains(out, `"d2"`) {
		t.Errorf("a text, or another source:\n%s", out)
	}
	status, out, _ = call(t, redis, "", "dead", "show", "d1")
	expect(t, status, 0, out, "attempts   1", "source     dart", "cause      permanent")
	if strings.Contains(out, "indigestible") {
		t.Errorf("the text is shown unasked:\n%s", out)
	}
	status, out, _ = call(t, redis, "", "dead", "show", "d1", "--keep-text", "--json")
	var letter struct{ Text, Lane string }
	if err := json.Unmarshal([]byte(out), &letter); err != nil || letter.Text != "indigestible one" || letter.Lane != "live" {
		t.Errorf("status %d, %v: %s", status, err, out)
	}
	status, _, problems := call(t, redis, "", "dead", "show", "nobody")
	expect(t, status, 1, problems, `"nobody"`)

	status, out, _ = call(t, redis, "", "dead", "replay", "--source", "news", "--older", "1h")
	expect(t, status, 0, out, "0 chosen")
	status, out, _ = call(t, redis, "", "dead", "drop", "--source", "dart")
	expect(t, status, 0, out, "1 dropped")
	status, out, _ = call(t, redis, "", "dead", "replay", "--cause", "permanent", "--json")
	expect(t, status, 0, out, `"chosen":1,"replayed":1`)
	status, out, _ = call(t, redis, "", "fleet", "events")
	expect(t, status, 0, out, "dead letters dropped", "dead letters replayed", "1 of 1 chosen", "somebody@")
	for _, args := range [][]string{{"drop"}, {"list", "--lane", "fast"}, {"show"}, {"list", "--older", "-1s"}} {
		if status, _, problems := call(t, redis, "", append([]string{"dead"}, args...)...); status != 2 {
			t.Errorf("%v: status %d: %s", args, status, problems)
		}
	}
}
