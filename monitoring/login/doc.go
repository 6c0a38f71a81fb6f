// Package login says who is at the door of a page for operators: people with a password, programs with a
// token, people whom a proxy vouches for, or, without any of these, whoever sits at the machine itself. It
// owns the file of users, the cookies, the counting of wrong attempts, and the checks that keep another
// site's page from acting in a visitor's name.
//
// It refuses to know what is behind the door: handlers ask [From] who calls and wrap what changes something
// in [Guard.Operator].
//
// # The file of users
//
// One user a line, fields separated by blanks, # begins a comment:
//
//	user  ann   operator  $argon2id$v=19$m=19456,t=2,p=1$<salt>$<key>
//	token ci    viewer    sha256:<64 hex digits>
//	proxy bob   operator
//	proxy *     viewer
//
// It is read again within seconds of a change; a bad new version is logged and the old one stays in force. A
// user whose line is changed or gone is signed out. Neither passwords nor tokens can be recovered from it.
package login
