// Package frame is what all pages of the monitor have in common: the layout with its navigation, the look in
// dark and light from 390 px up, the static files, which come out of the binary, the headers that keep
// foreign content out, and the words for numbers and times.
//
// It knows who calls (package login) and refuses to know what a page shows.
//
// A page is a template that defines "body" and is made by [Frame.Parse]. It is executed with a [View]: its own
// data is .Data, the caller is .Caller, and a form that changes something holds
//
//	<input type="hidden" name="csrf" value="{{.Caller.Token}}">
//
// The content security policy allows nothing inline: no style attribute, no script element with a text, no
// handler in an attribute. Styles and scripts are files, named in [Page]; colours are the variables at the
// top of static/frame.css.
package frame
