package boot

// Trace are the flags of whatever sends spans.
type Trace struct {
	Collector string
	Percent   int
}

// Register adds the flags.
func (t *Trace) Register(c *Config) {
	c.String(&t.Collector, "otlp", "", "address of a collector of OpenTelemetry that takes OTLP over HTTP, as http://127.0.0.1:4318; without it no spans are sent")
	c.Int(&t.Percent, "trace-percent", 100, [2]int{0, 100}, "how many of the traces that begin in this process are recorded, in percent")
}
