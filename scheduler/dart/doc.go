// Package dart crawls OpenDART, the open interface to the filings at Korea's Financial Supervisory Service:
// its list of filings, its list of companies, and filings' bodies. It owns what is known of that service
// (statuses, quotas, its old TLS, encodings that lie) and turns a filing into a document. It refuses to know
// when it is called and where anything is kept.
//
// # Why a seen-set and a window
//
// There is no cursor to crawl by. Receipt numbers are not in the order of publication (a KOSDAQ filing at
// 08:00 is numerically above every direct filing of the day; on a real day "greater than the last one" keeps
// 97 of 502), receipts are published days and weeks after the date they bear, and list.json has no time of
// day. So a sweep reads all pages of a window of days and compares with the set of receipts seen. A sweep
// is not a delta: repeated or missed, it costs calls or delay, never a filing.
//
// # What is secret
//
// The service wants its key in the query string, where Go's HTTP errors would show it. No error, log line or
// text that leaves this package holds it: see [Key].
package dart
