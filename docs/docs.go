// Package docs carries the operator's handbook into the binary that shows it: whoever is woken by an alert at
// night needs no checkout. It knows no more than the file.
package docs

import _ "embed" // the handbook

// Operations is operations.md. Its headings are the runbook's sections.
//
//go:embed operations.md
var Operations []byte
