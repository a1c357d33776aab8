{{- define "sparing.name" -}}
{{- .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- end }}

{{- /* Labels of everything; sparing.select adds the role. Takes (list $ role). */ -}}
{{- define "sparing.labels" -}}
app.kubernetes.io/name: sparing
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "sparing.select" -}}
app.kubernetes.io/name: sparing
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* "yes" of a role whose pods have names that last, for others take their pages. Takes (list $ role-values). */ -}}
{{- define "sparing.named" -}}
{{- $offers := (index . 1).offers -}}
{{- if and (index . 0).Values.peers.enabled (or (has "reasoning" $offers) (has "all" $offers)) }}yes{{ end -}}
{{- end }}

{{- /* Pods that write tickets, as --peers: all that there may be. */ -}}
{{- define "sparing.peers" -}}
{{- $peers := list -}}
{{- range $role, $r := .Values.roles }}
{{- if include "sparing.named" (list $ $r) }}
{{- $scale := default dict $r.autoscaling }}
{{- range $i := until (int (ternary $scale.max $r.replicas (default false $scale.enabled))) }}
{{- $peers = append $peers (printf "%s-%s-%d:8430" (include "sparing.name" $) $role $i) }}
{{- end }}
{{- end }}
{{- end }}
{{- if gt (len $peers) 32 }}
{{- fail (printf "peers: %d pods write tickets, and a server takes 32 peers" (len $peers)) }}
{{- end }}
{{- join "," $peers -}}
{{- end }}
