package archtest

// module is the import path that every room's begins with.
const module = "github.com/embedfleet/embedfleet"

// A Room is a row of the house's map: what a package, or a group of them, is for and what it may import.
// The standard library is free to all, but for what [Only] fences.
type Room struct {
	Path     string   // folder below the repository's root; "x/..." is x and everything below it
	Sentence string   // what it is for
	Rooms    []string // rooms of the module it may import, in the same notation
	Foreign  []string // import paths of other modules, and all below them
}

const (
	asynq     = "github.com/hibiken/asynq"
	goRedis   = "github.com/redis/go-redis/v9"
	miniredis = "github.com/alicebob/miniredis/v2"
	ort       = "github.com/yalue/onnxruntime_go"
	prom      = "github.com/prometheus/client_golang"
	jsonv2    = "github.com/go-json-experiment/json"
	cobra     = "github.com/spf13/cobra"
	protowire = "google.golang.org/protobuf/encoding/protowire"
	uuid      = "github.com/google/uuid"
	xsync     = "golang.org/x/sync"
	xsys      = "golang.org/x/sys"
	xtext     = "golang.org/x/text"
)

// Rooms is the map. The most specific row counts. A package that no row describes fails the test.
var Rooms = []Room{
	{"vector", "what a vector, a document and a record are", nil, nil},
	{"tasks", "the contract between producer and worker, and the handler", []string{"vector"},
		[]string{"github.com/klauspost/compress/zstd"}},
	{"queue/internal/wire", "what a lane looks like in Redis: asynq's format, and what we add to it", []string{"tasks"},
		[]string{goRedis, protowire}},
	{"queue", "the producer's side of the lanes", []string{"queue/internal/wire", "tasks"}, []string{goRedis}},
	{"queue/consumer", "does the tasks of one model's lanes", []string{"internal/coalesce", "queue/internal/wire", "tasks"},
		[]string{goRedis, uuid, xsync}},
	{"registry", "which workers there are, what they are told, and what happened", []string{"tasks", "vector"}, []string{goRedis}},
	{"queue/upkeep", "keeps the lanes in order without a model", []string{"queue", "queue/internal/wire", "registry", "tasks"},
		[]string{goRedis}},
	{"queue/internal/queuetest", "what the tests of the queue's rooms share",
		[]string{"internal/testkit", "queue/consumer", "queue/internal/wire", "tasks"}, []string{goRedis}},

	{"embedder", "one model, its states and limits, and the batcher", []string{"vector"}, []string{xsync}},
	{"embedder/tokenizer", "a text becomes token ids, exactly as Hugging Face does", nil, nil},
	{"embedder/tokenizer/gen", "makes the tokenizer's Unicode tables", nil, nil},
	{"embedder/model", "a Hugging Face folder becomes configuration, space and graph",
		[]string{"embedder/internal/onnxpb", "embedder/model/internal/...", "internal/filelock", "internal/fingerprint", "vector"}, nil},
	{"embedder/model/internal/...", "file formats of models", nil, nil},
	{"embedder/internal/onnxpb", "ONNX's file format, as far as embedding graphs need it", nil, []string{protowire}},
	{"embedder/onnx/kernels", "the arithmetic of an encoder's layers, for processors with AVX-512", nil, []string{xsys}},
	{"embedder/onnx", "the only room that knows ONNX Runtime", []string{"embedder", "embedder/internal/onnxpb", "embedder/onnx/kernels", "internal/filelock", "internal/fingerprint", "internal/smaps", "vector"},
		[]string{ort, xsync, xsys}},
	{"embedder/embedtest", "an embedder whose vectors can be read back", []string{"embedder", "vector"}, nil},

	{"store", "documents and vectors, and the search over them", []string{"vector"}, []string{xsync}},
	{"store/redis", "the store in Redis", []string{"internal/coalesce", "store", "vector"}, []string{goRedis}},
	{"store/storetest", "what any store must do, and one in memory", []string{"store", "vector"}, nil},

	{"search", "a search text becomes hits", []string{"store", "tasks", "vector"}, nil},
	{"gateway", "HTTP in, queue and search behind", []string{"gateway/batch", "gateway/tokenids", "search", "store", "tasks", "vector"},
		[]string{jsonv2, "github.com/parquet-go/parquet-go"}},
	{"gateway/tokenids", "token ids of OpenAI's vocabularies become their text again", nil, []string{"github.com/pkoukk/tiktoken-go-loader"}},
	{"gateway/batch", "a file of requests becomes a file of answers, whatever dies meanwhile", []string{"tasks", "vector"}, []string{jsonv2}},
	{"gateway/ledger", "files, batches and what callers took, in Redis", []string{"gateway", "gateway/batch"},
		[]string{goRedis, "github.com/klauspost/compress/zstd"}},
	{"monitoring", "shows the fleet to Prometheus, probes and people", []string{"tasks", "vector"},
		[]string{prom}},
	{"monitoring/login", "who is at the door of the page", nil, []string{"golang.org/x/crypto/argon2"}},
	{"monitoring/words", "numbers and times as people read them", nil, nil},
	{"monitoring/frame", "what all pages of the monitor have in common", []string{"monitoring/login", "monitoring/words"}, nil},
	{"monitoring/fleet", "how the fleet stands, how it stood for an hour, and what that means",
		[]string{"monitoring/words", "queue", "queue/upkeep", "registry", "scheduler", "scheduler/ledger", "tasks", "vector"}, nil},
	{"monitoring/page", "the fleet and its dead letters as pages, with what an operator may do",
		[]string{"monitoring/fleet", "monitoring/frame", "monitoring/login", "monitoring/words", "queue", "queue/upkeep", "registry", "scheduler/ledger", "tasks"},
		[]string{"github.com/yuin/goldmark"}},
	{"docs", "the operator's handbook, for the binary that shows it", nil, nil},
	{"monitoring/searchpage", "the page on which documents are found, and their map",
		[]string{"monitoring/frame", "search", "store", "vector"}, []string{"gonum.org/v1/gonum"}},
	{"monitoring/asynqmon", "asynq's own page under the rules it lacks", []string{"tasks", "vector"},
		[]string{"github.com/hibiken/asynqmon"}},
	{"hub", "a repository of a model hub becomes a folder on disk", []string{"internal/filelock"}, nil},
	{"intake", "documents from files and streams", []string{"vector"}, nil},
	{"samples", "the sample documents", []string{"vector"}, nil},
	{"samples/gen", "makes the sample documents", []string{"samples", "vector"}, []string{xtext}},

	{"scheduler", "when documents enter without a human, and the one order of steps", []string{"tasks", "vector"},
		[]string{"github.com/robfig/cron/v3"}},
	{"scheduler/ledger", "what crawlers must remember, in Redis", []string{"scheduler"}, []string{goRedis}},
	{"scheduler/dart", "filings from OpenDART become documents", []string{"scheduler", "vector"}, []string{xtext}},
	{"scheduler/news", "feeds and Naver's search become documents", []string{"scheduler", "tasks", "vector"},
		[]string{xsync, xtext}},
	{"scheduler/jsonapi", "any interface that answers with JSON becomes documents", []string{"scheduler", "scheduler/news", "tasks", "vector"}, nil},
	{"scheduler/interval", "a command or a call at each slot, and the documents it gives", []string{"intake", "scheduler", "tasks", "vector"}, nil},
	{"scheduler/sources", "the file that says what is crawled",
		[]string{"scheduler", "scheduler/dart", "scheduler/interval", "scheduler/jsonapi", "scheduler/news"}, nil},
	{"scheduler/alike", "news that say the same as earlier news are marked", []string{"scheduler", "store", "vector"}, nil},
	{"scheduler/imitation", "answers as OpenDART and feeds do, for tests and demonstrations", []string{"samples"}, []string{xtext}},

	{"cmd/...", "wiring", []string{"..."}, []string{cobra, goRedis, miniredis, xsync,
		uuid, "github.com/spf13/pflag"}},
	{"cmd/bench", "compares the fleet with what else there is", []string{"..."},
		[]string{asynq, cobra, goRedis, xsync, uuid, "github.com/spf13/pflag"}},
	{"cmd/monitor", "wiring of the page", []string{"..."}, []string{cobra, goRedis, xsync, "golang.org/x/term"}},
	{"cmd/internal/boot", "flags and environment become one checked configuration", nil,
		[]string{goRedis, cobra, "github.com/spf13/pflag"}},
	{"cmd/internal/term", "progress bars and tables", []string{"gateway", "queue", "search", "store", "vector"},
		[]string{"github.com/rivo/uniseg", "github.com/schollz/progressbar/v3", "golang.org/x/term"}},

	{"internal/filelock", "one process of a host at a time", nil, nil},
	{"internal/outside", "HTTP to addresses that others chose, never into the own network", nil, nil},
	{"internal/coalesce", "calls at the same time become one", nil, nil},
	{"internal/trace", "one text's way through the processes, as OpenTelemetry has it", []string{"tasks", "vector"},
		[]string{"go.opentelemetry.io/otel"}},
	{"internal/trace/tracetest", "spans in memory, for tests", []string{"internal/trace"}, []string{"go.opentelemetry.io/otel"}},
	{"internal/supervise", "keeps a child process running", nil, nil},
	{"internal/fingerprint", "whether a file is still the one it was", nil, nil},
	{"internal/smaps", "what memory a process takes, as its kernel counts it", nil, nil},
	{"internal/testkit", "what tests share", nil, []string{goRedis, miniredis, "go.uber.org/goleak"}},
	{"internal/simulation", "the fleet in one bubble of fake time, under faults; all tests", nil, nil},
	{"internal/archtest", "this map, as a test", nil, nil},
	{"deploy", "what runs the fleet in containers and watches it, and the proof that its files are true", nil, nil},
	{"scripts/...", "tools of the Makefile", nil, nil},
}

// A Fence names the only places where something may appear, and why.
type Fence struct {
	What   string   // import path, or the name of a rule
	Places []string // rooms, or files
	Why    string
}

// Only fences imports, whatever a room's row says: two fences are harder to move by accident than one.
// They hold for code that ships; what is in [InTests] also holds for tests.
var Only = []Fence{
	// cmd/bench measures what we gain over asynq alone.
	{asynq, []string{"cmd/bench"}, "lanes keep to its format, its code stays outside"},
	{ort, []string{"embedder/onnx"}, "who frees a session must know every user of it"},
	{goRedis, []string{"gateway/ledger", "queue/...", "registry", "scheduler/ledger", "store/redis", "cmd/...", "internal/testkit"}, "keys have one owner"},
	{miniredis, []string{"cmd/standalone", "internal/testkit"}, "nothing in it survives"},
	{prom, []string{"monitoring"}, "other rooms are measured at their doors"},
	{module + "/internal/testkit", []string{"queue/internal/queuetest"}, "it is for tests"},
	{"testing", []string{"internal/testkit", "store/storetest", "embedder/embedtest", "queue/internal/queuetest"}, "it is for tests"},
	{"log", []string{"embedder/tokenizer/gen", "samples/gen"}, "a *slog.Logger is injected"},
	{"unsafe", []string{"embedder/...", "vector", "store/..."}, "bytes and numbers meet there"},
}

// InTests names where tests may import what is fenced off from tests too: what they compare ours with.
var InTests = map[string][]string{
	asynq: {"queue/...", "cmd/bench"},
	ort:   {"embedder/onnx"},
}

// The rules that look into files, with the places where each may be broken.
var (
	// Environment is read once, in a binary, and handed down.
	Environment = Fence{"os.Getenv", []string{"cmd/...", "internal/testkit", "queue/internal/queuetest"}, "configuration is read in one place"}
	// Goroutines have an owner that waits for them.
	Goroutines = Fence{"go statement", []string{
		"cmd/...",
		"embedder/engine.go", "embedder/manager.go", "embedder/offline.go", "embedder/embedtest/each.go", "embedder/onnx/manifest.go",
		"gateway/batch/runner.go",
		"intake/group.go",
		"monitoring/fleet/collect.go", "monitoring/page/orders.go",
		"queue/bulk.go", "queue/consumer/consumer.go", "queue/consumer/inflight.go", "queue/consumer/settler.go", "queue/internal/queuetest",
		"scheduler/scheduler.go", "scheduler/tick.go", "scheduler/news/crawl.go",
		"store/index.go", "store/storetest",
		"internal/supervise", "internal/testkit",
	}, "every goroutine has one owner, who waits for it"}
	// Printing is for programs.
	Printing = Fence{"fmt.Print", []string{"cmd/...", "scripts/...", "samples/gen", "embedder/tokenizer/gen"},
		"a library has nobody to talk to but its logger"}
	// Inits run behind everyone's back.
	Inits = Fence{"func init", nil, "what happens at start is written in main"}
)

const (
	// MaxMethods bounds an interface: consumers declare what they need, not what there is.
	MaxMethods = 3
	// MaxFileLines bounds a file that is written by hand, tests apart.
	MaxFileLines = 500
	// MaxFuncLines bounds a function of such a file.
	MaxFuncLines = 80
)

// WideInterfaces may have more methods, each for its reason.
var WideInterfaces = map[string]string{}
