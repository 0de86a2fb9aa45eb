{{/*
For a chart that has postern as dependency, with postern.mode: sidecar. Each is included with what Helm calls the
subchart's scope, (.Subcharts.postern), or (.Subcharts.ALIAS). charts/sidecar-example uses all of them.

  spec:
    template:
      metadata:
        labels:          {{- include "postern.sidecar.podLabels" .Subcharts.postern | nindent 10 }}
        annotations:     {{- include "postern.sidecar.podAnnotations" .Subcharts.postern | nindent 10 }}
      spec:
        securityContext: {{- include "postern.sidecar.podSecurityContext" .Subcharts.postern | nindent 10 }}
        terminationGracePeriodSeconds: {{ include "postern.sidecar.gracePeriod" .Subcharts.postern }}
        initContainers:  {{- include "postern.sidecar.initContainers" .Subcharts.postern | nindent 10 }}
        containers:      {{- include "postern.sidecar.containers" .Subcharts.postern | nindent 10 }}
          - name: app
            {{- include "postern.sidecar.appProbes" .Subcharts.postern | nindent 12 }}
            lifecycle:   {{- include "postern.sidecar.appLifecycle" .Subcharts.postern | nindent 14 }}
            volumeMounts: {{- include "postern.sidecar.toolsMount" .Subcharts.postern | nindent 14 }}
        volumes:         {{- include "postern.sidecar.volumes" .Subcharts.postern | nindent 10 }}

In the Service's ports:  {{- include "postern.sidecar.servicePort" .Subcharts.postern | nindent 4 }}
A Job's command:         {{- concat (include "postern.sidecar.jobCommand" .Subcharts.postern | fromJsonArray) (list "/job") | toYaml | nindent 4 }}

What the values say of pods (nodeSelector, imagePullSecrets, …) is your chart's business then.
*/}}

{{/* What NetworkPolicy and PodMonitor find the pods by. */}}
{{- define "postern.sidecar.podLabels" -}}
postern/sidecar: {{ include "postern.fullname" . }}
{{- end -}}

{{/* New pods when a setting changed that a running postern does not apply. */}}
{{- define "postern.sidecar.podAnnotations" -}}
postern/restart: {{ include "postern.restartSum" . }}
{{- if and (include "postern.hasDomain" .) (eq (include "postern.engine" .) "sqlite") }}
postern/domain: {{ toJson .Values.domain | sha256sum }}
{{- end }}
{{- end -}}

{{/* fsGroup lets postern, user 65532, read its Secrets. Any other group does too: say one of your own instead if you must. */}}
{{- define "postern.sidecar.podSecurityContext" -}}
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "postern.sidecar.stopSeconds" -}}
{{- add (int .Values.drain.delaySeconds) (int .Values.drain.seconds) 1 -}}
{{- end -}}

{{/* postern's drain, which the application outlives, then its own end, and 5 s to spare. */}}
{{- define "postern.sidecar.gracePeriod" -}}
{{- add (include "postern.sidecar.stopSeconds" . | int) (int .Values.sidecar.app.stopSeconds) 5 -}}
{{- end -}}

{{- define "postern.sidecar.hasTools" -}}
{{- if or .Values.sidecar.tools (eq .Values.sidecar.app.stop "quit") -}}true{{- end -}}
{{- end -}}

{{- define "postern.sidecar.adminURL" -}}
http://127.0.0.1:{{ include "postern.adminPort" . }}
{{- end -}}

{{- define "postern.sidecar.initContainers" -}}
{{- if include "postern.sidecar.hasTools" . }}
- name: postern-tools
  image: {{ include "postern.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [install, /postern-tools]
  volumeMounts:
    - {name: postern-tools, mountPath: /postern-tools}
  resources:
    {{- include "postern.commandResources" . | nindent 4 }}
  securityContext:
    {{- include "postern.securityContext" . | nindent 4 }}
{{- end }}
{{- if and (include "postern.hasDomain" .) (eq (include "postern.engine" .) "sqlite") }}
{{ include "postern.domainInitContainers" . }}
{{- end }}
{{- if .Values.sidecar.native }}
- {{ include "postern.container" . | nindent 2 | trim }}
  restartPolicy: Always
  startupProbe:
    httpGet: {path: /readyz, port: postern-admin}
    periodSeconds: 1
    timeoutSeconds: 2
    failureThreshold: {{ int .Values.sidecar.startSeconds }}
{{- end }}
{{- end -}}

{{/* postStart holds the start of the containers after this one: it must stay the first. */}}
{{- define "postern.sidecar.containers" -}}
{{- if not .Values.sidecar.native }}
- {{ include "postern.container" . | nindent 2 | trim }}
  lifecycle:
    postStart:
      exec: {command: [/postern, wait, --timeout, {{ printf "%ds" (int .Values.sidecar.startSeconds) }}]}
{{- end }}
{{- end -}}

{{- define "postern.sidecar.volumes" -}}
{{- if ne .Values.mode "sidecar" -}}
{{- fail (printf "%s.mode is gateway, and this chart takes postern into its own pods: set %s.mode=sidecar" .Chart.Name .Chart.Name) -}}
{{- end -}}
{{ include "postern.volumes" . }}
{{- if include "postern.sidecar.hasTools" . }}
- name: postern-tools
  emptyDir: {}
{{- end }}
{{- end -}}

{{/* For containers of yours that run /postern-tools/postern. */}}
{{- define "postern.sidecar.toolsMount" -}}
{{- if include "postern.sidecar.hasTools" . }}
- {name: postern-tools, mountPath: /postern-tools, readOnly: true}
{{- end }}
{{- end -}}

{{/* Your container is asked whether it is well the way that clients come: through postern, by a public route. */}}
{{- define "postern.sidecar.appProbes" -}}
{{- if .Values.sidecar.app.probePath -}}
{{- $get := printf "{path: %s, port: %s, scheme: %s}" (.Values.sidecar.app.probePath | quote) (include "postern.frontPort" .) (ternary "HTTPS" "HTTP" (eq (include "postern.tls" .) "true")) -}}
startupProbe:
  httpGet: {{ $get }}
  periodSeconds: 1
  timeoutSeconds: 3
  failureThreshold: 60
livenessProbe:
  httpGet: {{ $get }}
  periodSeconds: 10
  timeoutSeconds: 3
readinessProbe:
  httpGet: {{ $get }}
  periodSeconds: 5
  timeoutSeconds: 3
{{- end -}}
{{- end -}}

{{- define "postern.sidecar.appLifecycle" -}}
preStop:
  {{- $seconds := include "postern.sidecar.stopSeconds" . }}
  {{- if eq .Values.sidecar.app.stop "sleep" }}
  sleep: {seconds: {{ $seconds }}}
  {{- else if eq .Values.sidecar.app.stop "exec" }}
  exec: {command: [sleep, {{ $seconds | quote }}]}
  {{- else }}
  exec: {command: [/postern-tools/postern, quit, --url, {{ include "postern.sidecar.adminURL" . | quote }}, --wait, {{ printf "%ss" $seconds }}]}
  {{- end }}
{{- end -}}

{{/* Put before a Job's command: an ordinary container has to be told that the Job has ended. A list in JSON. */}}
{{- define "postern.sidecar.jobCommand" -}}
{{- if .Values.sidecar.native -}}
[]
{{- else -}}
{{- $url := include "postern.sidecar.adminURL" . -}}
{{- toJson (list "/postern-tools/postern" "wait" "--url" $url "--timeout" (printf "%ds" (int .Values.sidecar.startSeconds)) "--" "/postern-tools/postern" "quit" "--url" $url "--") -}}
{{- end -}}
{{- end -}}

{{/* By number: a Service need not find the names of init containers' ports. */}}
{{- define "postern.sidecar.servicePort" -}}
- name: {{ ternary "https" "http" (eq (include "postern.tls" .) "true") }}
  appProtocol: {{ ternary "https" "http" (eq (include "postern.tls" .) "true") }}
  port: {{ .Values.service.port }}
  targetPort: {{ include "postern.frontPort" . }}
{{- end -}}
