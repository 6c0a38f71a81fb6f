package dart

import (
	"time"

	"github.com/embedfleet/embedfleet/scheduler"
)

// The jobs of this source.
const (
	JobSweep     = "dart"
	JobWide      = "dart-wide"
	JobCompanies = "dart-companies"
)

// Schedules returns when the source is crawled, in Korean time, and why. Together they make some 7,000 calls
// on a usual day, of 20,000.
func Schedules() []scheduler.Schedule {
	const day = 24 * time.Hour
	return []scheduler.Schedule{
		{
			Job: JobSweep, Source: Source, Window: 3 * day,
			Cron: []string{"*/5 7-19 * * 1-5", "*/30 0-6,20-23 * * 1-5", "*/30 * * * 0,6"},
			Reason: "filings appear on working days from 07:30 to 19:00 and must be found within minutes; " +
				"three days cover a weekend's stragglers",
		},
		{
			Job: JobWide, Source: Source, Window: 40 * day, Cron: []string{"58 7-19 * * 1-5", "40 3 * * *"},
			Reason: "funds' filings appear up to a month after the date they bear; nightly it heals whatever " +
				"was missed; two ranges of forty days stay below the service's three months",
		},
		{
			Job: JobCompanies, Source: Source, Cron: []string{"20 5 * * *"},
			Reason: "the list of companies changes by a few a day",
		},
	}
}

// KeepSeen is how long receipts are remembered: longer than the widest window.
const KeepSeen = 45 * 24 * time.Hour
