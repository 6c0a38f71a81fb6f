package main

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/embedfleet/embedfleet/registry"
)

// memory returns what this process occupies by the kernel's own counters, which cost microseconds; nothing
// where there is no /proc.
func memory() registry.Memory {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return registry.Memory{}
	}
	defer f.Close()
	return parseMemory(f)
}

// parseMemory reads a status file of proc(5). Pages of files, as of prepared weights, may be shared with other
// workers and are dropped when memory is short; anonymous ones are this process's own.
func parseMemory(r io.Reader) registry.Memory {
	var m registry.Memory
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "VmRSS":
			m.RSS = kb << 10
		case "RssAnon":
			m.Private = kb << 10
		case "RssFile", "RssShmem":
			m.Shared += kb << 10
		}
	}
	return m
}
