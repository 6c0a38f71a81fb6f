// Package page shows the fleet and its dead letters to people, live, and carries out what an operator asks
// for: after a page that says what will happen, with a line in the log and in the fleet's events.
//
// It knows templates, forms and streams of events. How the fleet stands and what that means is package
// fleet's; who asks is package login's; how something is done is its [Controls]' business.
package page
