package redis

// The only place where a key is built. The braces are the Cluster hash tag; an alias holds no braces
// (tasks.CheckModel), and what follows the tag may hold anything.

func docKey(alias, id string) string { return "ef:{" + alias + "}:doc:" + id }
func changesKey(alias string) string { return "ef:{" + alias + "}:changes" }
func seqKey(alias string) string     { return "ef:{" + alias + "}:seq" }
func spaceKey(alias string) string   { return "ef:{" + alias + "}:space" }
func statsKey(alias string) string   { return "ef:{" + alias + "}:stats" }
func goneKey(alias string) string    { return "ef:{" + alias + "}:gone" }
func answerKey(id string) string     { return "ef:answer:" + id }

// documentKeys are the KEYS of every script that writes documents, in the order the scripts expect.
func documentKeys(alias string, ids ...string) []string {
	keys := append(make([]string, 0, 5+len(ids)), changesKey(alias), seqKey(alias), spaceKey(alias), statsKey(alias), goneKey(alias))
	for _, id := range ids {
		keys = append(keys, docKey(alias, id))
	}
	return keys
}
