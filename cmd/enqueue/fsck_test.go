package main

import (
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/store"
	storeredis "github.com/embedfleet/embedfleet/store/redis"
)

func TestFsck(t *testing.T) {
	redis := testkit.RedisServer(t)
	rdb := redis.Client()
	startWorker(t, redis)
	status, out, _ := call(t, redis, "a\nb\nc\n", "--model", "quote", "--wait")
	expect(t, status, 0, out, "3 stored")
	status, out, _ = call(t, redis, "", "fsck")
	expect(t, status, 0, out, "nothing found")

	rdb.HSet(t.Context(), "asynq:{embed:quote:live}:t:phantom", "result", "late")
	rdb.HSet(t.Context(), "ef:{quote}:doc:broken", "text", "no vectors")
	rdb.ZAdd(t.Context(), "ef:{quote}:changes", goredis.Z{Score: 1000, Member: "broken"})
	docs := storeredis.New(rdb)
	if err := docs.ClaimSpace(t.Context(), "quote", "s2", store.ReEmbed); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		status, out, _ = call(t, redis, "", "fsck")
		expect(t, status, 1, out, "FAULT", "phantom      quote  live   1      0", "no_vectors   quote  store  1      0         broken", "other_space  quote  store  3      0")
	}
	status, out, _ = call(t, redis, "", "fsck", "--repair", "--json")
	expect(t, status, 1, out, `{"fault":"phantom","model":"quote","lane":"live","count":1,"repaired":1,"examples":["phantom"]}`,
		`"fault":"other_space","model":"quote","lane":"store","count":3,"repaired":3`, `"fault":"no_vectors","model":"quote","lane":"store","count":1,"repaired":0`)
}
