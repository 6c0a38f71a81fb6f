package onnx

import (
	"fmt"
	"io/fs"
	"syscall"
	"time"
)

// clockTick is more than the clock of any file system advances at once. A file that was changed within it
// may change again without a trace, so it gets no stamp.
const clockTick = 50 * time.Millisecond

// stampOf returns what differs whenever a file's content has been changed or another file has its name: its
// inode and the time of the latest change, which, other than that of the latest write, no program can set.
// It is empty where the system does not tell.
func stampOf(info fs.FileInfo) string {
	stat, ok := info.Sys().(*syscall.Stat_t)
	changed, known := changeTime(info)
	if !ok || !known {
		return ""
	}
	return fmt.Sprintf("%d-%d", stat.Ino, changed.UnixNano())
}
