// Package imitation answers as OpenDART does, from one real day of filings, and as a dozen outlets with feeds and
// Naver's search over them do, so that crawlers can be tested and shown without a key and without a network. It serves in memory, for tests on fake time, and over real
// HTTPS that offers RSA key exchange only, as the service does. It knows nothing of the crawlers.
package imitation
