package main

import (
	"errors"
	"io/fs"
	"net/http"

	"github.com/embedfleet/embedfleet/monitoring/frame"
	"github.com/embedfleet/embedfleet/monitoring/page"
	"github.com/embedfleet/embedfleet/monitoring/searchpage"
)

// assets are the static files of the rooms that have some, by the name under which they are served.
func assets() map[string]fs.FS {
	return map[string]fs.FS{"page": page.Assets(), "search": searchpage.Assets()}
}

// routes is the map of the page's addresses. Outside of the guard are only the way in, the static files, and
// whether the process lives.
func (a *app) routes() (http.Handler, error) {
	inner := http.NewServeMux()
	a.page.Routes(inner, a.guard.Operator)
	inner.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.frame.Refuse(w, r, http.StatusNotFound, "There is no such page.")
	})

	if err := errors.Join(a.mountSearch(inner), a.mountQueues(inner)); err != nil {
		return nil, err
	}

	outer := http.NewServeMux()
	outer.Handle("/", a.guard.Wrap(inner))
	outer.Handle("/login", a.guard.Door())
	outer.Handle("/logout", a.guard.Door())
	outer.Handle("GET /static/", a.frame.Static())
	return frame.Headers(outer), nil
}
