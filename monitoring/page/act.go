package page

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/embedfleet/embedfleet/monitoring/frame"
	"github.com/embedfleet/embedfleet/monitoring/login"
	"github.com/embedfleet/embedfleet/registry"
	"github.com/embedfleet/embedfleet/tasks"
)

// soon is how long the answer to a form waits for its order: most are done by then.
const soon = 1500 * time.Millisecond

// A deed is a kind of order as the page before it shows it.
type deed struct {
	verb   string // on the button
	danger bool   // it can't be undone
	title  func(Order) string
	then   string   // what will happen
	fields []string // what can be filled in, see act.html
	needs  func(Order) error
	holds  bool     // the page tells what the order is about, see waiting.go
	choose []string // what the page narrows that by
}

// deeds are the orders that there are.
func deeds() map[string]deed {
	lane := func(verb string) func(Order) string {
		return func(o Order) string { return fmt.Sprintf("%s lane %s of %s", verb, o.Lane, o.Model) }
	}
	source := func(verb string) func(Order) string {
		return func(o Order) string { return verb + " source " + o.Source }
	}
	letters := func(verb string) func(Order) string {
		return func(o Order) string { return verb + " " + letterChoice(o) }
	}
	return map[string]deed{
		PauseLane: {verb: "Pause lane", title: lane("Pause"), fields: []string{"reason"}, needs: needsLane,
			then: "No worker takes a text from it from now on, on any host. What is in work goes on. Producers may still add texts; they wait."},
		ResumeLane: {verb: "Resume lane", title: lane("Resume"), needs: needsLane,
			then: "Workers take texts from it again, at once."},
		SetLimits: {verb: "Set limits", title: func(o Order) string { return "Set limits of " + crew(o) }, needs: needsSettings,
			fields: []string{"concurrency", "max_access", "access_timeout"},
			then:   "Workers take them over within two seconds, without a restart. Set for a model, they are kept for workers that start later; set for one worker, they end with its process. What is left empty stays as it is."},
		ResetLimits: {verb: "Take limits back", title: func(o Order) string { return "Take limits of " + crew(o) + " back" }, needs: needsCrew,
			then: "Concurrency, access and its time return to what the workers' flags say, within two seconds."},
		DrainWorker: {verb: "Drain worker", danger: true, title: func(o Order) string { return "Drain " + crew(o) }, needs: needsWorker,
			then: "It takes no more texts, finishes what it has in hand, gives the rest back and ends with status 0. A supervisor does not take that for a crash; whether it starts another is its own setting."},
		ReplayDead: {verb: "Replay", title: letters("Replay"), needs: needsModel,
			then: "They go back into the lanes where they died, with all their retries. If the cause is not mended, they will die again. It goes in steps and may be repeated."},
		DropDead: {verb: "Drop for good", danger: true, title: letters("Drop"), needs: needsModel,
			then: "The letters and their texts are removed. That can't be undone; the producer would have to send the documents again."},
		PauseSource: {verb: "Pause source", title: source("Pause"), fields: []string{"reason", "for"}, needs: needsSource,
			then: "No slot of its jobs begins from now on, at any scheduler. A run that is under way ends. What is missed meanwhile is caught up after it is resumed."},
		ResumeSource: {verb: "Resume source", title: source("Resume"), needs: needsSource,
			then: "Its jobs run again from their next slot, looking back to their last success. A quota that was found used up is tried again."},
		RunSlot: {verb: "Run now", title: func(o Order) string { return fmt.Sprintf("Run job %s of %s now", o.Job, o.Source) }, needs: needsJob,
			then: "A scheduler runs the current slot once more, whether it was done or not, within some seconds. What is known already is not enqueued again."},
		CancelWaiting: {verb: "Cancel texts", danger: true, title: func(o Order) string { return "Cancel " + texts(o) }, needs: needsModel, holds: true, choose: []string{"lane", "source", "id"},
			then: "They leave their lanes without a dead letter, and whoever waits for them hears that they were cancelled. A text that a worker takes meanwhile ends early if it can. That can't be undone; the producer would have to send the documents again."},
		MoveWaiting: {verb: "Move texts", title: func(o Order) string { return fmt.Sprintf("Move %s to lane %s", texts(o), o.To) }, needs: needsMove, holds: true, choose: []string{"lane", "source", "id", "to"},
			then: "They wait in the other lane from now on, with all their retries; no limit turns them away. A text that a worker takes meanwhile is done where it was."},
		ForgetModel: {verb: "Forget alias", danger: true, title: func(o Order) string { return "Forget alias " + o.Model }, needs: needsModel, holds: true,
			then: "All that the queue holds of it is removed: its lanes with what waits in them, its dead letters, marks and counts. Documents and vectors stay in the store. It is refused while workers serve the alias or have its texts in hand. That can't be undone."},
	}
}

// crew names whose limits an order is about.
func crew(o Order) string {
	if o.Worker != "" {
		return "worker " + o.Worker
	}
	return "all workers of " + o.Model
}

// letterChoice says in words which dead letters an order is about.
func letterChoice(o Order) string {
	s := "dead letters"
	if o.ID != "" {
		s = "the dead letter " + o.ID
	} else if o.Cause == "" && o.Source == "" && o.Lane == "" {
		s = "all dead letters"
	}
	s += " of " + o.Model
	if o.Lane != "" {
		s += ", lane " + string(o.Lane)
	}
	if o.Cause != "" {
		s += ", cause " + o.Cause
	}
	if o.Source != "" {
		s += ", source " + o.Source
	}
	return s
}

func needsModel(o Order) error {
	if err := tasks.CheckModel(o.Model); err != nil {
		return err
	}
	if o.Lane != "" && !slices.Contains(tasks.Lanes, o.Lane) {
		return fmt.Errorf("lane %q is none of %v", o.Lane, tasks.Lanes)
	}
	return nil
}

func needsLane(o Order) error {
	if o.Lane == "" {
		return errors.New("no lane is named")
	}
	return needsModel(o)
}

func needsWorker(o Order) error {
	if o.Worker == "" || strings.ContainsAny(o.Worker, " \n") {
		return errors.New("no worker is named")
	}
	return nil
}

// needsCrew wants one worker or one model.
func needsCrew(o Order) error {
	if o.Worker != "" && o.Model == "" {
		return needsWorker(o)
	}
	return needsModel(o)
}

func needsSettings(o Order) error {
	if o.Settings == (registry.Settings{}) {
		return errors.New("no limit is filled in")
	}
	if err := o.Settings.Check(); err != nil {
		return err
	}
	return needsCrew(o)
}

func needsSource(o Order) error {
	if o.Source == "" || strings.ContainsAny(o.Source, "{} \n") {
		return errors.New("no source is named")
	}
	return nil
}

func needsJob(o Order) error {
	if o.Job == "" {
		return errors.New("no job is named")
	}
	return needsSource(o)
}

// orderOf reads an order from an address or a form. Its error names every field that can't be read.
func orderOf(f url.Values, by string) (Order, error) {
	get := func(name string) string { return strings.TrimSpace(f.Get(name)) }
	o := Order{
		Do: get("do"), By: by, Model: get("model"), Lane: tasks.Lane(get("lane")), To: tasks.Lane(get("to")), Worker: get("worker"), Source: get("source"),
		Job: get("job"), Cause: get("cause"), ID: get("id"), Reason: get("reason"),
	}
	var errs []error
	whole := func(name string) int {
		if get(name) == "" {
			return 0
		}
		n, err := strconv.Atoi(get(name))
		if err != nil || n < 1 {
			errs = append(errs, fmt.Errorf("%s: %q is no number above 0", strings.ReplaceAll(name, "_", " "), get(name)))
		}
		return n
	}
	length := func(name string) time.Duration {
		if get(name) == "" {
			return 0
		}
		d, err := time.ParseDuration(get(name))
		if err != nil || d <= 0 {
			errs = append(errs, fmt.Errorf("%s: %q is no length of time such as 90s, 10m or 2h", strings.ReplaceAll(name, "_", " "), get(name)))
		}
		return d
	}
	o.Settings = registry.Settings{
		Concurrency: whole("concurrency"), MaxAccess: whole("max_access"), AccessTimeout: registry.Seconds(length("access_timeout")),
	}
	o.For = length("for")
	return o, errors.Join(errs...)
}

// An asking is what act.html shows.
type asking struct {
	Order  Order
	Title  string
	Then   string
	Verb   string
	Danger bool
	Fields []string
	Values url.Values // as they were filled in
	Wrong  string
	Back   string
	Choice []choice // of waiting texts
	Holds  string   // what the order is about
	Unsure bool     // there is nothing to press for
}

// Hidden are the fields that the address settled.
func (a asking) Hidden() map[string]string {
	out := map[string]string{"back": a.Back}
	for _, name := range []string{"do", "model", "lane", "to", "worker", "source", "job", "cause", "id"} {
		if v := a.Values.Get(name); v != "" {
			out[name] = v
		}
	}
	return out
}

// Value is what was filled into a field.
func (a asking) Value(name string) string { return a.Values.Get(name) }

// confirm shows what an order will do, and the button that gives it.
func (p *Page) confirm(w http.ResponseWriter, r *http.Request) {
	p.ask(w, r, r.URL.Query(), nil)
}

// ask shows the page before an order, with what was wrong with the last try.
func (p *Page) ask(w http.ResponseWriter, r *http.Request, values url.Values, wrong error) {
	o, err := orderOf(values, "")
	d, known := deeds()[o.Do]
	if !known {
		p.parts.Frame.Refuse(w, r, http.StatusNotFound, "There is no such order.")
		return
	}
	if wrong == nil && err == nil && o.Do != SetLimits { // whose fields are empty at first
		err = d.needs(o)
	}
	if wrong == nil && err != nil && d.choose != nil && needsModel(o) == nil {
		wrong = err // to be chosen otherwise on the page itself
	}
	if err != nil && wrong == nil {
		p.parts.Frame.Refuse(w, r, http.StatusBadRequest, "The order can't be given: "+err.Error()+".")
		return
	}
	a := asking{Order: o, Title: d.title(o), Then: d.then, Verb: d.verb, Danger: d.danger, Fields: d.fields, Values: values, Back: back(values.Get("back"))}
	status := http.StatusOK
	if wrong != nil {
		a.Wrong, status = wrong.Error(), http.StatusUnprocessableEntity
	}
	if a.Choice = choices(d.choose, o); d.holds && wrong == nil {
		if a.Holds, a.Unsure, err = p.holds(r.Context(), o); err != nil {
			p.log.Warn("counting waiting texts for the page failed", "model", o.Model, "err", err)
			a.Wrong, status = "Redis did not answer in time, so what this is about is not known. Narrow the choice, or try again.", http.StatusServiceUnavailable
		}
	}
	a.Unsure = a.Unsure || d.holds && a.Wrong != ""
	p.parts.Frame.Render(w, r, frame.Page{Title: a.Title, Here: strings.SplitN(a.Back, "?", 2)[0], Status: status, Body: p.act, Data: a, Styles: []string{"page/page.css"}})
}

// back keeps the way back to our own pages.
func back(to string) string {
	if to == "/dead" || strings.HasPrefix(to, "/dead?") {
		return to
	}
	return "/"
}

// do gives an order. The answer leads back, with what came of it if that is known soon, else the page tells.
func (p *Page) do(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		p.parts.Frame.Refuse(w, r, http.StatusBadRequest, "The form can't be read.")
		return
	}
	o, err := orderOf(r.PostForm, login.From(r.Context()).Name)
	d, known := deeds()[o.Do]
	if !known {
		p.parts.Frame.Refuse(w, r, http.StatusNotFound, "There is no such order.")
		return
	}
	if err == nil {
		err = d.needs(o)
	}
	if err != nil {
		p.ask(w, r, r.PostForm, err)
		return
	}
	e, err := p.orders.give(o, d.title(o))
	if err != nil {
		w.Header().Set("Retry-After", "5")
		p.parts.Frame.Refuse(w, r, http.StatusServiceUnavailable, "Too many orders are under way. Try again when one of them is done.")
		return
	}
	timer := time.NewTimer(soon)
	defer timer.Stop()
	select {
	case <-e.done:
	case <-timer.C:
	case <-r.Context().Done():
	}
	http.Redirect(w, r, back(r.PostForm.Get("back")), http.StatusSeeOther) //nolint:gosec // back keeps to our own pages
}
