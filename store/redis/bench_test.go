package redis_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/internal/testkit"
	"github.com/embedfleet/embedfleet/store/redis"
	"github.com/embedfleet/embedfleet/store/storetest"
	"github.com/embedfleet/embedfleet/vector"
)

// filing returns a record like those of the DART crawler: 100 bytes of text, 384 dimensions.
func filing(i int) vector.Record {
	text := fmt.Sprintf("%-100s", fmt.Sprintf("삼성전자 매출액또는손익구조30%%(대규모법인은15%%)이상변경 %d", i))
	rec := storetest.Record(fmt.Sprintf("dart:202201030%05d", i), text[:100], storetest.Version)
	rec.Document.Title = "매출액또는손익구조30%이상변경"
	rec.Document.Source = "dart"
	rec.Document.PublishedAt = time.Date(2022, 1, 3, 0, 0, 0, 0, time.UTC)
	rec.Document.StockCodes = []string{"005930"}
	rec.Chunks[0].Vector = make(vector.Vector, 384)
	for j := range rec.Chunks[0].Vector {
		rec.Chunks[0].Vector[j] = float32(i+j) / 1e5
	}
	return rec
}

// BenchmarkMemory reports what Redis needs per document, everything included, as it is and with the
// setting that doc.go recommends.
func BenchmarkMemory(b *testing.B) {
	for _, limit := range []string{"64", "4096"} {
		b.Run("hash-max-listpack-value="+limit, func(b *testing.B) {
			client := testkit.Redis(b)
			if err := client.ConfigSet(b.Context(), "hash-max-listpack-value", limit).Err(); err != nil {
				b.Fatal(err)
			}
			s, before, n := redis.New(client), usedMemory(b, client), 0
			for b.Loop() {
				if _, err := s.Put(b.Context(), filing(n)); err != nil {
					b.Fatal(err)
				}
				n++
			}
			b.ReportMetric(float64(usedMemory(b, client)-before)/float64(n), "B/document")
		})
	}
}

// BenchmarkPut is the cost of one writer, which a store on another machine would see plus its distance.
func BenchmarkPut(b *testing.B) {
	s, n := redis.New(testkit.Redis(b)), 0
	for b.Loop() {
		if _, err := s.Put(b.Context(), filing(n)); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// BenchmarkRefresh is the same for a document that is stored already.
func BenchmarkRefresh(b *testing.B) {
	s, rec := redis.New(testkit.Redis(b)), filing(0)
	if _, err := s.Put(b.Context(), rec); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if current, err := s.Refresh(b.Context(), rec); !current || err != nil {
			b.Fatal(current, err)
		}
	}
}

func usedMemory(b *testing.B, client *goredis.Client) int64 {
	info, err := client.Info(b.Context(), "memory").Result()
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(info, "used_memory:")
	line, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.ParseInt(line, 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}
