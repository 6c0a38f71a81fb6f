// Package news crawls the news: feeds in RSS, Atom and JSON, and Naver's search where its owner has read the
// terms. It owns what is wrong with feeds in the wild (dates, encodings, entities, missing ids, pages of a
// firewall) and what makes two items the same story. It refuses to know when it is called and where anything
// is kept. Titles and summaries are embedded; articles are not fetched, publishers forbid it.
package news
