package deploy_test

import (
	"strconv"
	"testing"

	"go.yaml.in/yaml/v3"
)

// decode reads YAML strictly: a misspelled key is an error.
func decode(t testing.TB, into any, elem ...string) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(read(t, elem...)), into); err != nil {
		t.Fatalf("%v: %v", elem, err)
	}
}

// scrapes are the jobs of prometheus.yml: service and port by name.
func scrapes(t testing.TB) map[string][2]string {
	t.Helper()
	var config struct {
		RuleFiles []string `yaml:"rule_files"`
		Scrape    []struct {
			Name string `yaml:"job_name"`
			DNS  []struct {
				Names []string
				Type  string
				Port  int
			} `yaml:"dns_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	decode(t, &config, "deploy", "prometheus", "prometheus.yml")
	jobs := map[string][2]string{}
	for _, s := range config.Scrape {
		for _, d := range s.DNS {
			if len(d.Names) != 1 || d.Type != "A" {
				t.Fatalf("prometheus.yml: job %s: want one name and its addresses", s.Name)
			}
			jobs[s.Name] = [2]string{d.Names[0], strconv.Itoa(d.Port)}
		}
	}
	if len(config.RuleFiles) != 1 || config.RuleFiles[0] != "/etc/prometheus/rules.yml" {
		t.Errorf("prometheus.yml reads %q", config.RuleFiles)
	}
	return jobs
}
