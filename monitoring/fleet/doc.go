// Package fleet knows how the fleet stands, how it stood for the last hour, and what that means in words: is it
// healthy, what is late and why, when will it be done, what is to be done about it.
//
// It owns the one reader of Redis that all viewers share, and the judgement. It refuses to know how any of it
// is shown, and changes nothing.
//
// The hour is kept in this process's memory: another replica has its own, and one that has just started says
// since when it looks. What must outlive the process is Prometheus's.
package fleet
