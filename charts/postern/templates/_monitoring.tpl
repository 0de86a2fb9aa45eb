{{/* How either monitor scrapes. The job's name does not depend on which of them does: the alerts select by it. */}}
{{- define "postern.scrape" -}}
path: /metrics
{{- with .interval }}
interval: {{ . }}
{{- end }}
relabelings:
  - {targetLabel: job, replacement: {{ include "postern.fullname" .root }}}
{{- end -}}

{{/* files/alerts.yaml with this release's targets, thresholds and runbook; its head says what is replaced. */}}
{{- define "postern.rules" -}}
{{- $values := .Values.monitoring.rules -}}
{{- $text := .Files.Get "files/alerts.yaml" -}}
{{- $thresholds := $values.thresholds -}}
{{- if eq (get $thresholds "feedStale" | toString) "" -}}
{{- $thresholds = merge (dict "feedStale" (include "postern.feedStale" .)) $thresholds -}}
{{- end -}}
{{- range $name, $value := $thresholds -}}
{{- $text = regexReplaceAll (printf "[0-9.]+ # %s\n" $name) $text (printf "%v # %s\n" $value $name) -}}
{{- end -}}
{{- $routes := list "none" -}}
{{- range $values.streamedRoutes -}}
{{- $routes = append $routes (regexQuoteMeta . | replace "\\" "\\\\") -}}
{{- end -}}
{{- $text = replace "route!~\"none\"" (printf "route!~%s" (join "|" $routes | printf "\"%s\"")) $text -}}
{{- $selector := default (printf "job=%q,namespace=%q" (include "postern.fullname" .) .Release.Namespace) $values.selector -}}
{{- $text = replace "job=\"postern\"" $selector $text -}}
{{- $text = replace "docs/runbook.md#" (printf "%s#" $values.runbookURL) $text -}}
{{- $groups := list -}}
{{- range (fromYaml $text).groups -}}
{{- $rules := list -}}
{{- range .rules -}}
{{- if .alert -}}
{{- $_ := set . "labels" (merge (dict) .labels $values.alertLabels) -}}
{{- end -}}
{{- if not (has .alert $values.disabled) -}}{{- $rules = append $rules . -}}{{- end -}}
{{- end -}}
{{- if $rules -}}{{- $groups = append $groups (dict "name" .name "rules" $rules) -}}{{- end -}}
{{- end -}}
{{- toYaml (dict "groups" $groups) -}}
{{- end -}}

{{/* From what age on PosternFeedStale counts its minute: it fires before verify.max_staleness, when requests are refused, though
scrapes and evaluations are up to half a minute apart. What is told by the environment is not known here. */}}
{{- define "postern.feedStale" -}}
{{- $text := default "5m" (default dict .Values.config.verify).max_staleness | toString -}}
{{- if not (regexMatch "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$" $text) -}}{{- $text = "5m" -}}{{- end -}}
{{- $units := dict "ms" 0.001 "s" 1 "m" 60 "h" 3600 -}}
{{- $seconds := 0.0 -}}
{{- range regexFindAll "[0-9.]+(ms|s|m|h)" $text -1 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $seconds = addf $seconds (mulf (trimSuffix $unit .) (get $units $unit)) -}}
{{- end -}}
{{- max 10 (subf $seconds 120 | floor | int64) -}}
{{- end -}}

{{- define "postern.faults.monitoring" -}}
{{- $faults := list -}}
{{- with .Values.monitoring -}}
{{- if and .serviceMonitor.enabled (ne $.Values.mode "gateway") -}}
{{- $faults = append $faults "monitoring.serviceMonitor is for mode gateway, and a sidecar has no Service of its own for its metrics: use monitoring.podMonitor" -}}
{{- else if and .serviceMonitor.enabled .podMonitor.enabled -}}
{{- $faults = append $faults "monitoring.serviceMonitor and monitoring.podMonitor would both scrape each pod: enable one of the two" -}}
{{- end -}}
{{- $names := list -}}
{{- range regexFindAll "alert: [A-Za-z]+" ($.Files.Get "files/alerts.yaml") -1 -}}{{- $names = append $names (trimPrefix "alert: " .) -}}{{- end -}}
{{- range .rules.disabled -}}
{{- if not (has . $names) -}}
{{- $faults = append $faults (printf "monitoring.rules.disabled names %s, which is no alert: use some of %s" . (join ", " $names)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}
