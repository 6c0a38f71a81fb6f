package simulation

import (
	"bufio"
	"bytes"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2/server"
)

// An op is what a command is about, as the faults and the history speak of it.
type op struct {
	name   string   // of opNames, else the label
	label  string   // the command and its keys, ids replaced by "*"
	script string   // digest or source, "" for a plain command
	keys   []string // as sent
	args   []string // of a script, behind its keys
}

// The ops that have a name; of all others the label is.
const (
	opRegister   = "register"
	opEnqueue    = "enqueue"
	opSubscribe  = "subscribe"
	opDequeue    = "lease"
	opExtend     = "extend leases"
	opAck        = "ack"
	opRetry      = "retry"
	opRequeue    = "requeue"
	opFail       = "verdict"
	opHeartbeat  = "heartbeat"
	opAnnounce   = "announce"
	opBegin      = "begin call"
	opEnd        = "end call"
	opClaimSpace = "claim space"
	opRefresh    = "refresh"
	opPut        = "put"
	opReap       = "reap"
	opForward    = "forward"
	opCarry      = "carry crashes"
	opLeave      = "leave lane"
	opBury       = "bury"
	opClaim      = "claim slot"
	opRenewSlot  = "renew slot"
	opFinish     = "finish slot"
	opMark       = "mark known"
	opTurn       = "turn to sweep"
	opExpire     = "drop expired"
)

// opOf reads a command.
func opOf(cmd []string) op {
	name := strings.ToUpper(cmd[0])
	o := op{}
	switch {
	case name == "EVAL" || name == "EVALSHA":
		n, _ := strconv.Atoi(cmd[2])
		o.script, o.keys, o.args = cmd[1], cmd[3:3+n], cmd[3+n:]
		name = "SCRIPT"
	case name == "SUBSCRIBE":
		return op{name: opSubscribe, label: name}
	case len(cmd) > 1:
		o.keys = cmd[1:2]
	}
	words := []string{name}
	for _, key := range o.keys {
		if word := general(key); !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	o.label = strings.Join(words, " ")
	o.name = o.label
	if known, ok := opNames[o.label]; ok {
		o.name = known
	}
	switch { // scripts with the same keys
	case o.name == opAck:
		for _, one := range o.decisions() {
			if name := settledBy[one.word]; name != "" {
				o.name = name
			}
		}
	case o.name == opPut && len(o.records()[0]) < 9:
		o.name = opRefresh
	case o.name == opClaim && len(o.args) > 3 && slices.Contains([]string{"done", "failed", "paused", "released"}, o.args[3]):
		o.name = opFinish
	}
	return o
}

// settledBy names a settlement by its words; of several the last that has a name.
var settledBy = map[string]string{"retry": opRetry, "dead": opFail, "requeue": opRequeue}

// A decision is what a settlement says of one task.
type decision struct {
	id, word string
	at       int // of the word's first argument
}

// decisions reads the arguments of a settlement.
func (o op) decisions() (list []decision) {
	count := map[string]int{"done": 1, "keep": 3, "revoke": 0, "requeue": 0, "retry": 5, "dead": 8}
	for i := 4; i+2 < len(o.args); {
		d := decision{o.args[i], o.args[i+2], i + 3}
		list = append(list, d)
		i += 3 + count[d.word]
	}
	return list
}

// records returns what a put or a refresh says of each document: its version first, its text's hash, its id last.
func (o op) records() [][]string {
	const shared = 5 // keys before those of the documents
	rest := o.args[1:]
	return slices.Collect(slices.Chunk(rest, len(rest)/(len(o.keys)-shared)))
}

// opNames names the commands of the path by their labels.
var opNames = map[string]string{
	"SADD asynq:queues": opRegister,
	"SCRIPT lane:pending lane:active lane:lease lane:scheduled lane:retry lane:archived lane:completed own:dead " +
		"own:dead:causes own:cancelled own:counts": opEnqueue,

	"SCRIPT lane:pending lane:active lane:lease lane:paused own:cancelled own:counts": opDequeue,
	"SCRIPT lane:active lane:lease": opExtend,
	"SCRIPT lane:active lane:lease lane:pending lane:retry lane:completed lane:processed lane:processed:<day> lane:failed " +
		"lane:failed:<day> own:dead own:dead:causes own:cancelled": opAck, // or another word, see settled
	"SET asynq:servers:*": opHeartbeat,
	"SCRIPT {embedfleet:sweep}:turn {embedfleet:sweep}:state": opTurn,
	"SCRIPT lane:pending own:counts own:cancelled":            opExpire,

	"HSET embedfleet:worker:*": opAnnounce,
	"HSET embedfleet:calls:*":  opBegin,
	"HDEL embedfleet:calls:*":  opEnd,

	"SCRIPT lane:t:*": opCarry,

	"SCRIPT ef:{m}:space": opClaimSpace,
	"SCRIPT ef:{m}:changes ef:{m}:seq ef:{m}:space ef:{m}:stats ef:{m}:gone ef:{m}:doc:*": opPut,

	"SCRIPT lane:active lane:lease lane:pending own:counts lane:t:*":                             opReap,
	"SCRIPT lane:scheduled lane:pending":                                                         opForward,
	"SCRIPT lane:retry lane:pending":                                                             opForward,
	"SCRIPT lane:active lane:lease lane:t:*":                                                     opLeave,
	"SCRIPT lane:active lane:lease own:dead own:dead:causes lane:t:* own:letter:*":               opBury,
	"SCRIPT lane:archived lane:active lane:lease own:dead own:dead:causes lane:t:* own:letter:*": opBury,

	"SCRIPT ef:{crawl:feed}:job:crawl ef:{crawl:feed}:slots:crawl ef:{crawl:feed}:lease:crawl ef:{crawl:feed}:pause": opClaim,
	"SCRIPT ef:{crawl:feed}:job:crawl ef:{crawl:feed}:slots:crawl ef:{crawl:feed}:lease:crawl ef:{crawl:feed}:pause " +
		"ef:{crawl:feed}:runs:crawl": opFinish,
	"SCRIPT ef:{crawl:feed}:lease:crawl": opRenewSlot,
	"ZADD ef:{crawl:feed}:seen":          opMark,
}

// general takes what is particular out of a key: its lane, the day, and an id.
func general(key string) string {
	for _, own := range [...][2]string{{"asynq:{embed:m:", "lane"}, {"embedfleet:{embed:m:", "own"}} {
		if rest, ok := strings.CutPrefix(key, own[0]); ok {
			_, rest, _ = strings.Cut(rest, "}")
			key = own[1] + rest
		}
	}
	for _, one := range [...]string{"lane:t:", "own:letter:", "embedfleet:worker:", "embedfleet:calls:", "ef:{m}:doc:", "asynq:servers:", "asynq:workers:"} {
		if strings.HasPrefix(key, one) {
			return one + "*"
		}
	}
	if day := len(key) - len(time.DateOnly); day > 0 && key[day-1] == ':' && key[day+4] == '-' {
		key = key[:day] + "<day>"
	}
	return key
}

// bytesOf returns a copy, for the buffer is used again.
func bytesOf(b *bytes.Buffer) []byte { return bytes.Clone(b.Bytes()) }

// isEmpty reports whether a lease found nothing.
func isEmpty(reply []byte) bool { return bytes.HasPrefix(reply, []byte("*1\r\n:0")) }

// words reads a reply as a flat list of words.
func words(reply []byte) []string {
	v, err := server.ParseReply(bufio.NewReader(bytes.NewReader(reply)))
	if err != nil {
		return []string{err.Error()}
	}
	return flat(v)
}

func flat(v any) []string {
	switch v := v.(type) {
	case []any:
		var list []string
		for _, x := range v {
			list = append(list, flat(x)...)
		}
		return list
	case nil:
		return []string{""}
	case int:
		return []string{strconv.Itoa(v)}
	case int64:
		return []string{strconv.FormatInt(v, 10)}
	case string:
		return []string{v}
	case []byte:
		return []string{string(v)}
	case server.Simple:
		return []string{string(v)}
	default:
		return nil
	}
}
