package ledger

// The only place where a key is built. The braces are the Cluster hash tag.

// sourcesKey is of no source, so it has a slot of its own in a Cluster.
const sourcesKey = "ef:crawl:sources"

func prefix(source string) string { return "ef:{crawl:" + source + "}:" }

func jobKey(source, job string) string        { return prefix(source) + "job:" + job }
func slotsKey(source, job string) string      { return prefix(source) + "slots:" + job }
func runsKey(source, job string) string       { return prefix(source) + "runs:" + job }
func leaseKey(source, job string) string      { return prefix(source) + "lease:" + job }
func schedulesKey(source string) string       { return prefix(source) + "schedules" }
func askedKey(source, job string) string      { return prefix(source) + "asked:" + job }
func pauseKey(source string) string           { return prefix(source) + "pause" }
func seenKey(source string) string            { return prefix(source) + "seen" }
func reportKey(source, hash string) string    { return prefix(source) + "report:" + hash }
func awaitedKey(source string) string         { return prefix(source) + "awaited" }
func latenciesKey(source string) string       { return prefix(source) + "latencies" }
func quotaKey(source, who, day string) string { return prefix(source) + "quota:" + who + ":" + day }
func feedsKey(source string) string           { return prefix(source) + "feeds" }
func recallKey(source string) string          { return prefix(source) + "recall" }
func comparedKey(source string) string        { return prefix(source) + "compared" }
func backfillKey(source, name string) string  { return prefix(source) + "backfill:" + name }
func companiesKey(source string) string       { return prefix(source) + "companies" }
