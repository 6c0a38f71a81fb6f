package upkeep

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/embedfleet/embedfleet/queue/internal/wire"
)

// processKeys are asynq's registries of its processes, by when each entry lapses. asynq reads past lapsed ones and
// removes them only in order: one is left of each process that was killed.
var processKeys = [...]string{"asynq:servers", "asynq:workers", "asynq:schedulers"}

// staleAfter is how long an entry must have lapsed: asynq renews each every 5 s, and clocks differ.
const staleAfter = time.Hour

// checkProcesses reports entries of processes that are gone.
func (f *fsck) checkProcesses(ctx context.Context) error {
	finding := Finding{Fault: StaleProcess}
	limit := strconv.FormatInt(time.Now().Add(-staleAfter).Unix(), 10)
	for _, key := range processKeys {
		stale, err := f.rdb.ZRangeByScore(ctx, key, &redis.ZRangeBy{Min: "-inf", Max: limit}).Result()
		if err != nil {
			return err
		}
		finding.Count += len(stale)
		if len(stale) > 0 && len(finding.Examples) < findingExamples {
			finding.Examples = append(finding.Examples, stale[len(stale)-1])
		}
		if !f.repair || len(stale) == 0 {
			continue
		}
		n, err := f.rdb.ZRemRangeByScore(ctx, key, "-inf", limit).Result()
		if err != nil {
			return err
		}
		finding.Repaired += int(n)
	}
	if finding.Count > 0 {
		f.findings = append(f.findings, finding)
	}
	return nil
}

// checkRest looks at what is not a task: registry, archive, locks, dead letters.
func (l *laneCheck) checkRest(ctx context.Context) error {
	return errors.Join(l.checkArchive(ctx), l.checkRegistry(ctx), l.checkLocks(ctx), l.checkLetters(ctx))
}

// checkArchive reports an archive that asynq is about to cut. Repairing sweeps it, also a short one, since
// what was mended may have gone there.
func (l *laneCheck) checkArchive(ctx context.Context) error {
	n, err := l.rdb.ZCard(ctx, l.keys.Archived()).Result()
	if err != nil {
		return err
	}
	repaired := 0
	if l.repair && n > 0 {
		if err := l.buryArchived(ctx); err != nil {
			return err
		}
		repaired = int(n)
	}
	if n > archiveAlarm {
		l.findings = append(l.findings, Finding{Fault: LongArchive, Model: l.model, Lane: l.lane, Count: int(n), Repaired: repaired})
	}
	return nil
}

// checkRegistry reports a lane with tasks that asynq's tools don't see.
func (l *laneCheck) checkRegistry(ctx context.Context) error {
	name := wire.QueueName(l.model, l.lane)
	if l.registered[name] || len(l.places)+len(l.hashes) == 0 {
		return nil
	}
	repaired := 0
	if l.repair {
		if err := l.rdb.SAdd(ctx, wire.RegistryKey, name).Err(); err != nil {
			return err
		}
		repaired = 1
	}
	l.add(Unregistered, []string{name}, repaired)
	return nil
}

// checkLocks reports locks of unique tasks. We never take one, so whoever left it kept an id from running.
func (l *laneCheck) checkLocks(ctx context.Context) error {
	var locks []string
	err := scanKeys(ctx, l.rdb, string(l.keys)+"unique:*", func(key string) { locks = append(locks, key) })
	if err != nil || len(locks) == 0 {
		return err
	}
	slices.Sort(locks)
	repaired := 0
	if l.repair {
		for part := range slices.Chunk(locks, scanPage) {
			n, err := l.rdb.Del(ctx, part...).Result()
			if err != nil {
				return err
			}
			repaired += int(n)
		}
	}
	l.add(UniqueLock, locks, repaired)
	return nil
}

// checkLetters compares the letters with their index and with the count of causes.
func (l *laneCheck) checkLetters(ctx context.Context) error {
	index, err := l.rdb.ZRange(ctx, l.keys.Dead(), 0, -1).Result()
	if err != nil {
		return err
	}
	codes := map[string]string{} // by task id
	var ids []string
	err = scanKeys(ctx, l.rdb, l.keys.Letters()+"*", func(key string) {
		ids = append(ids, strings.TrimPrefix(key, l.keys.Letters()))
	})
	if err != nil {
		return err
	}
	lasts := map[string]float64{}
	letters, err := l.dead.letters.Read(ctx, l.model, l.lane, ids)
	if err != nil {
		return err
	}
	for _, letter := range letters {
		codes[letter.ID], lasts[letter.ID] = letter.Code, float64(letter.Last.UnixMilli())
	}
	indexed := map[string]bool{}
	var empty, hidden []string
	for _, id := range index {
		indexed[id] = true
		if _, ok := codes[id]; !ok {
			empty = append(empty, id)
		}
	}
	for id := range codes {
		if !indexed[id] {
			hidden = append(hidden, id)
		}
	}
	if err := l.mendLetters(ctx, empty, hidden, lasts); err != nil {
		return err
	}
	return l.checkCauses(ctx, codes)
}

// mendLetters reports letters that only their index, or only Redis, knows of.
func (l *laneCheck) mendLetters(ctx context.Context, empty, hidden []string, lasts map[string]float64) error {
	for _, part := range [][]string{empty, hidden} {
		slices.Sort(part)
	}
	if len(empty) > 0 {
		repaired := 0
		if l.repair {
			n, err := l.dead.letters.Forget(ctx, l.keys, empty)
			if err != nil {
				return err
			}
			repaired = n
		}
		l.add(LetterNoHash, empty, repaired)
	}
	if len(hidden) == 0 {
		return nil
	}
	repaired := 0
	if l.repair {
		for _, id := range hidden {
			n, err := l.rdb.ZAddNX(ctx, l.keys.Dead(), redis.Z{Score: lasts[id], Member: id}).Result()
			if err != nil {
				return err
			}
			repaired += int(n)
		}
	}
	l.add(LetterNoIndex, hidden, repaired)
	return nil
}

// checkCauses counts the causes again. Letters that come or go meanwhile move the counts by themselves, so
// only differences are written.
func (l *laneCheck) checkCauses(ctx context.Context, codes map[string]string) error {
	fields, err := l.rdb.HGetAll(ctx, l.keys.Causes()).Result()
	if err != nil {
		return err
	}
	off := map[string]int64{}
	for _, code := range codes {
		off[code]++
	}
	for code, value := range fields {
		n, _ := strconv.ParseInt(value, 10, 64)
		off[code] -= n
	}
	maps.DeleteFunc(off, func(_ string, n int64) bool { return n == 0 })
	if len(off) == 0 {
		return nil
	}
	wrong := slices.Sorted(maps.Keys(off))
	repaired := 0
	if l.repair {
		for _, code := range wrong {
			n, err := l.rdb.HIncrBy(ctx, l.keys.Causes(), code, off[code]).Result()
			if err != nil {
				return err
			}
			if n <= 0 {
				if err := l.rdb.HDel(ctx, l.keys.Causes(), code).Err(); err != nil {
					return err
				}
			}
			repaired++
		}
	}
	l.add(CausesMiscount, wrong, repaired)
	return nil
}
