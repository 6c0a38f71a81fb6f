// Package smaps tells what memory a process takes, as its kernel counts it: what is its own and what it
// shares with others. Linux tells; elsewhere every question is answered with [errors.ErrUnsupported]. It
// refuses to know what the memory is for.
//
// The resident size (RSS) that other tools print counts a page once for every process that maps it, so the
// RSS of four workers that map the same weights adds up to four times the weights. Only the figures here
// can be added.
package smaps

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A Use is the resident memory of a process, or of a part of it, in bytes. The fields are those of
// proc_pid_smaps(5).
type Use struct {
	Private      int64 // of pages that no other process maps: it is free again when this one ends
	Dirty        int64 // of Private, what the process has written to, so that it can't be dropped or shared
	Shared       int64 // of pages that other processes map too
	Proportional int64 // PSS: Private, and of each shared page its share; the sum over processes is what they take
}

// Plus returns the sum of two parts.
func (u Use) Plus(v Use) Use {
	return Use{u.Private + v.Private, u.Dirty + v.Dirty, u.Shared + v.Shared, u.Proportional + v.Proportional}
}

// add adds the value of one line's field.
func (u *Use) add(field string, bytes int64) {
	switch field {
	case "Private_Clean":
		u.Private += bytes
	case "Private_Dirty":
		u.Private += bytes
		u.Dirty += bytes
	case "Shared_Clean", "Shared_Dirty":
		u.Shared += bytes
	case "Pss":
		u.Proportional += bytes
	}
}

// parse adds up the mappings that wanted says, given the path of each, "" for one without.
func parse(r io.Reader, wanted func(path string) bool) (Use, error) {
	var sum Use
	counts := false
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, value, isField := field(lines.Text())
		if !isField {
			counts = wanted(path(lines.Text()))
			continue
		}
		if !counts {
			continue
		}
		kb, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return Use{}, fmt.Errorf("line %q: want a number of kB", lines.Text())
		}
		sum.add(name, kb<<10)
	}
	return sum, lines.Err()
}

// field splits a line "Pss:    12 kB"; any other is the head of a mapping, or a field without a size.
func field(line string) (name, value string, ok bool) {
	name, rest, ok := strings.Cut(line, ":")
	if !ok {
		return "", "", false
	}
	value, ok = strings.CutSuffix(rest, " kB")
	return name, strings.TrimSpace(value), ok
}

// path returns the file of a mapping's head: "7f..-7f.. r--s 00000000 08:01 1234    /the/path". A file that was
// deleted or replaced since keeps its old name.
func path(head string) string {
	i := strings.IndexByte(head, '/')
	if i < 0 {
		return ""
	}
	return strings.TrimSuffix(head[i:], " (deleted)")
}
