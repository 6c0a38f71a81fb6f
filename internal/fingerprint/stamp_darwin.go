package fingerprint

import (
	"io/fs"
	"syscall"
	"time"
)

// changeTime returns when a file was changed last, in any respect.
func changeTime(info fs.FileInfo) (time.Time, bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return time.Time{}, false
	}
	return time.Unix(stat.Ctimespec.Unix()), true
}
