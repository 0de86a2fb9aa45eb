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
{{- range $name, $value := $values.thresholds -}}
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
{{- $names := list -}}
{{- range (fromYaml $text).groups -}}
{{- $rules := list -}}
{{- range .rules -}}
{{- if .alert -}}
{{- $names = append $names .alert -}}
{{- $_ := set . "labels" (merge (dict) .labels $values.alertLabels) -}}
{{- end -}}
{{- if not (has .alert $values.disabled) -}}{{- $rules = append $rules . -}}{{- end -}}
{{- end -}}
{{- if $rules -}}{{- $groups = append $groups (dict "name" .name "rules" $rules) -}}{{- end -}}
{{- end -}}
{{- range $values.disabled -}}
{{- if not (has . $names) -}}
{{- fail (printf "monitoring.rules.disabled has %s, which is no alert: use some of %s" . (join ", " $names)) -}}
{{- end -}}
{{- end -}}
{{- toYaml (dict "groups" $groups) -}}
{{- end -}}
