{{- define "postern.securityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* fsGroup: what lies in volumes belongs to postern's group, so that no Secret need be readable by everybody. */}}
{{- define "postern.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* What each command needs to open the store. */}}
{{- define "postern.storeMounts" -}}
{{- if eq (include "postern.engine" .) "sqlite" }}
- {name: postern-data, mountPath: /data}
{{- end }}
{{- if .Values.secrets.store.existingSecret }}
- {name: postern-store, mountPath: /run/secrets/postern-store, readOnly: true}
{{- end }}
{{- if .Values.secrets.masterKey.existingSecret }}
- {name: postern-master-key, mountPath: /run/secrets/postern-master-key, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "postern.storeVolumes" -}}
{{- if eq (include "postern.engine" .) "sqlite" }}
- name: postern-data
  {{- if .Values.persistence.enabled }}
  persistentVolumeClaim: {claimName: {{ default (printf "%s-data" (include "postern.fullname" .)) .Values.persistence.existingClaim }}}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- with .Values.secrets.store }}
{{- if .existingSecret }}
- name: postern-store
  secret: {secretName: {{ .existingSecret }}, defaultMode: 0440, items: [{key: {{ .key | quote }}, path: dsn}]}
{{- end }}
{{- end }}
{{- with .Values.secrets.masterKey }}
{{- if .existingSecret }}
- name: postern-master-key
  secret: {secretName: {{ .existingSecret }}, defaultMode: 0440, items: [{key: {{ .key | quote }}, path: master-key}]}
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "postern.volumes" -}}
- name: postern-config
  configMap: {name: {{ include "postern.fullname" . }}, defaultMode: 0440}
{{- include "postern.storeVolumes" . }}
{{- if .Values.secrets.tls.existingSecret }}
- name: postern-tls
  secret: {secretName: {{ .Values.secrets.tls.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- with .Values.secrets.redis }}
{{- if .existingSecret }}
- name: postern-redis
  secret: {secretName: {{ .existingSecret }}, defaultMode: 0440, items: [{key: {{ .key | quote }}, path: redis}]}
{{- end }}
{{- end }}
{{- if and (include "postern.hasDomain" .) (eq (include "postern.engine" .) "sqlite") }}
{{ include "postern.domainVolumes" . }}
{{- end }}
{{- end -}}

{{- define "postern.domainVolumes" -}}
- name: postern-domain
  configMap:
    name: {{ default (printf "%s-domain" (include "postern.fullname" .)) .Values.domain.existingConfigMap }}
    defaultMode: 0440
    items: [{key: {{ .Values.domain.key | quote }}, path: domain.yaml}]
{{- if .Values.domain.existingSecret }}
- name: postern-domain-secrets
  secret: {secretName: {{ .Values.domain.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "postern.domainMounts" -}}
- {name: postern-domain, mountPath: /etc/postern-domain, readOnly: true}
{{- if .Values.domain.existingSecret }}
- {name: postern-domain-secrets, mountPath: /run/secrets/postern-domain, readOnly: true}
{{- end }}
{{- end -}}

{{/*
What a command on the store is told by its environment: it needs neither routes nor certificates, which may not be there
yet. ${NAME} is replaced in a file alone; Kubernetes replaces $(NAME), of what stands before.
*/}}
{{- define "postern.storeEnv" -}}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- $c := include "postern.config" . | fromYaml -}}
{{- $names := include "postern.envNames" . | fromJsonArray -}}
{{- $keys := default dict $c.keys -}}
{{- $options := default dict $c.store_options -}}
{{- $all := dict "POSTERN_CONFIG" "" "POSTERN_STORE" $c.store "POSTERN_STORE_FILE" $c.store_file "POSTERN_KEYS_MASTER_KEY" $keys.master_key "POSTERN_KEYS_MASTER_KEY_FILE" $keys.master_key_file "POSTERN_STORE_OPTIONS_STATEMENT_TIMEOUT" $options.statement_timeout -}}
{{- range $name, $value := $all }}
{{- if and (not (has $name $names)) (or $value (eq $name "POSTERN_CONFIG")) }}
- {name: {{ $name }}, value: {{ regexReplaceAll "\\$\\{([A-Za-z0-9_]+)\\}" (toString (default "" $value)) "$$(${1})" | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "postern.commandResources" -}}
requests: {cpu: 10m, memory: 32Mi}
limits: {memory: 256Mi}
{{- end -}}

{{/* A container that runs one command on the store. Call it with (dict "root" . "name" NAME "args" LIST "domain" BOOL). */}}
{{- define "postern.command" -}}
name: {{ .name }}
image: {{ include "postern.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: {{ toJson .args }}
env:
  {{- include "postern.storeEnv" .root | trim | nindent 2 }}
{{- $mounts := include "postern.storeMounts" .root | trim }}
{{- if or $mounts .domain }}
volumeMounts:
  {{- with $mounts }}{{ . | nindent 2 }}{{ end }}
  {{- if .domain }}{{ include "postern.domainMounts" .root | nindent 2 }}{{ end }}
{{- end }}
resources:
  {{- include "postern.commandResources" . | nindent 2 }}
securityContext:
  {{- include "postern.securityContext" .root | nindent 2 }}
{{- end -}}

{{- define "postern.applyArgs" -}}
{{- $args := list "apply" "-f" "/etc/postern-domain/domain.yaml" -}}
{{- if .Values.domain.prune -}}{{- $args = append $args "--prune" -}}{{- end -}}
{{- toJson $args -}}
{{- end -}}

{{/* SQLite: the file is where postern runs, so the declaration is applied there, before it starts. */}}
{{- define "postern.domainInitContainers" -}}
- {{ include "postern.command" (dict "root" . "name" "postern-apply" "args" (include "postern.applyArgs" . | fromJsonArray) "domain" true) | nindent 2 | trim }}
{{- end -}}

{{- define "postern.container" -}}
{{- $memory := include "postern.memory" . -}}
name: postern
image: {{ include "postern.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve]
env:
  - {name: POSTERN_CONFIG, value: /etc/postern/postern.yaml}
  {{- if and $memory (not (include "postern.envNames" . | fromJsonArray | has "GOMEMLIMIT")) }}
  - {name: GOMEMLIMIT, value: {{ printf "%dMiB" (div (mul (int $memory) 9) 10) }}}
  {{- end }}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: postern-front, containerPort: {{ include "postern.frontPort" . }}}
  - {name: postern-admin, containerPort: {{ include "postern.adminPort" . }}}
volumeMounts:
  - {name: postern-config, mountPath: /etc/postern, readOnly: true}
  {{- include "postern.storeMounts" . | trim | nindent 2 }}
  {{- if .Values.secrets.tls.existingSecret }}
  - {name: postern-tls, mountPath: /run/secrets/postern-tls, readOnly: true}
  {{- end }}
  {{- if .Values.secrets.redis.existingSecret }}
  - {name: postern-redis, mountPath: /run/secrets/postern-redis, readOnly: true}
  {{- end }}
livenessProbe:
  httpGet: {path: /livez, port: postern-admin}
  periodSeconds: 10
  timeoutSeconds: 3
readinessProbe:
  httpGet: {path: /readyz, port: postern-admin}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- include "postern.securityContext" . | nindent 2 }}
{{- end -}}
