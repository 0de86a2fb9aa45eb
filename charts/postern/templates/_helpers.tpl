{{- define "postern.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "postern.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "postern.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "postern.selectorLabels" -}}
app.kubernetes.io/name: {{ include "postern.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "postern.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "postern.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* The pods that serve, in either mode, as a label selector. */}}
{{- define "postern.podSelector" -}}
{{- if eq .Values.mode "gateway" -}}
matchLabels:
  {{- include "postern.selectorLabels" . | nindent 2 }}
  app.kubernetes.io/component: gateway
{{- else if .Values.sidecar.podSelector -}}
{{ toYaml .Values.sidecar.podSelector }}
{{- else -}}
matchLabels:
  {{- include "postern.sidecar.podLabels" . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "postern.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "postern.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "postern.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* postgres or sqlite. A DSN in a Secret cannot be read here; SQLite's has nothing to hide, so it is PostgreSQL's. */}}
{{- define "postern.engine" -}}
{{- $names := include "postern.envNames" . | fromJsonArray -}}
{{- if or .Values.secrets.store.existingSecret .Values.config.store_file (hasPrefix "postgres" (default "" .Values.config.store)) (has "POSTERN_STORE" $names) (has "POSTERN_STORE_FILE" $names) -}}
postgres
{{- else -}}
sqlite
{{- end -}}
{{- end -}}

{{- define "postern.envNames" -}}
{{- $names := list -}}
{{- range .Values.env -}}{{- $names = append $names .name -}}{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{/* Whether more than one pod serves. */}}
{{- define "postern.several" -}}
{{- if or (gt (int .Values.replicaCount) 1) (and (eq .Values.mode "gateway") .Values.autoscaling.enabled) -}}true{{- end -}}
{{- end -}}

{{/* How many pods may serve at once. postern takes no more than 1000 as limits.replicas. */}}
{{- define "postern.replicas" -}}
{{- if and (eq .Values.mode "gateway") .Values.autoscaling.enabled -}}
{{ min 1000 (int .Values.autoscaling.maxReplicas) }}
{{- else -}}
{{ min 1000 (int .Values.replicaCount) }}
{{- end -}}
{{- end -}}

{{/* Whether pods share their limits. */}}
{{- define "postern.redis" -}}
{{- $names := include "postern.envNames" . | fromJsonArray -}}
{{- if or .Values.secrets.redis.existingSecret .Values.config.redis .Values.config.redis_file (has "POSTERN_REDIS" $names) (has "POSTERN_REDIS_FILE" $names) -}}true{{- end -}}
{{- end -}}

{{- define "postern.hasDomain" -}}
{{- if or .Values.domain.declaration .Values.domain.existingConfigMap -}}true{{- end -}}
{{- end -}}

{{- define "postern.frontPort" -}}
{{- regexFind "[0-9]+$" .Values.config.front.listen -}}
{{- end -}}

{{- define "postern.adminPort" -}}
{{- regexFind "[0-9]+$" .Values.config.admin.listen -}}
{{- end -}}

{{- define "postern.tls" -}}
{{- $tls := default dict .Values.config.front.tls -}}
{{- if or .Values.secrets.tls.existingSecret $tls.certificate -}}true{{- end -}}
{{- end -}}

{{/* A sidecar that is native gets SIGTERM when its application has ended: then nobody is to notice any more. */}}
{{- define "postern.drainDelay" -}}
{{- if and (eq .Values.mode "sidecar") .Values.sidecar.native (ne .Values.sidecar.app.stop "quit") -}}0{{- else -}}{{ int .Values.drain.delaySeconds }}{{- end -}}
{{- end -}}

{{/* postern's settings: config, and what the chart knows. */}}
{{- define "postern.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $front := $config.front -}}
{{- $_ := set $front "drain_delay" (printf "%ss" (include "postern.drainDelay" .)) -}}
{{- $_ := set $front "drain" (printf "%ds" (int .Values.drain.seconds)) -}}
{{- with .Values.secrets.tls -}}
{{- if .existingSecret -}}
{{- $tls := default dict $front.tls -}}
{{- $_ := set $tls "certificate" "/run/secrets/postern-tls/tls.crt" -}}
{{- $_ := set $tls "key" "/run/secrets/postern-tls/tls.key" -}}
{{- if .clientCAKey -}}{{- $_ := set $tls "client_ca" (printf "/run/secrets/postern-tls/%s" .clientCAKey) -}}{{- end -}}
{{- $_ := set $front "tls" $tls -}}
{{- end -}}
{{- end -}}
{{- if .Values.secrets.store.existingSecret -}}
{{- $_ := set $config "store_file" "/run/secrets/postern-store/dsn" -}}
{{- else if and (not $config.store) (eq (include "postern.engine" .) "sqlite") -}}
{{- $_ := set $config "store" "sqlite:/data/postern.db" -}}
{{- end -}}
{{- if .Values.secrets.redis.existingSecret -}}
{{- $_ := set $config "redis_file" "/run/secrets/postern-redis/redis" -}}
{{- end -}}
{{- $limits := default dict $config.limits -}}
{{- if and (include "postern.several" .) (not $limits.replicas) -}}
{{- $_ := set $limits "replicas" (include "postern.replicas" . | int) -}}
{{- $_ := set $config "limits" $limits -}}
{{- end -}}
{{- if .Values.secrets.masterKey.existingSecret -}}
{{- $keys := default dict $config.keys -}}
{{- $_ := set $keys "master_key_file" "/run/secrets/postern-master-key/master-key" -}}
{{- $_ := set $config "keys" $keys -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* What of the settings a running postern does not apply: new pods for these alone. */}}
{{- define "postern.restartSum" -}}
{{- $c := include "postern.config" . | fromYaml -}}
{{- $log := default dict $c.log -}}
{{- $front := $c.front -}}
{{- $all := pick $c "admin" "store" "store_file" "store_options" "redis" "redis_file" "limits" "keys" "issuer" "assertion" "verify" "usage" -}}
{{- $_ := set $all "front" (dict "listen" $front.listen "proxy_protocol" $front.proxy_protocol "tls" (include "postern.tls" .)) -}}
{{- $_ := set $all "log" (pick $log "access" "format" "level") -}}
{{- toJson $all | sha256sum -}}
{{- end -}}

{{/* limits.memory in MiB; empty when there is none, 0 when it is no quantity. */}}
{{- define "postern.memory" -}}
{{- $limits := default dict .Values.resources.limits -}}
{{- if $limits.memory -}}
{{- $text := $limits.memory | toString -}}
{{- if regexMatch "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$" $text -}}
{{- $units := dict "" 1 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 -}}
{{- $number := regexFind "^[0-9.]+" $text -}}
{{- divf (mulf $number (get $units (trimPrefix $number $text))) 1048576 | floor | int64 -}}
{{- else -}}
0
{{- end -}}
{{- end -}}
{{- end -}}
