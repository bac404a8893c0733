output "head_instance_id" {
  description = "Instance id of the head."
  value       = aws_instance.head.id
}

output "head_private_ip" {
  description = "Address of the head inside the VPC."
  value       = var.head_private_ip
}

output "security_group_id" {
  description = "Security group of head and workers."
  value       = aws_security_group.nodes.id
}

output "head_role_name" {
  description = "IAM role of the head, for policies of other modules."
  value       = aws_iam_role.head.name
}

output "worker_role_name" {
  description = "IAM role of the workers."
  value       = aws_iam_role.worker.name
}

output "secret_arn" {
  description = "Secret that holds Ray's token and certificate authority. Terraform makes it empty; the head fills it on its first boot."
  value       = aws_secretsmanager_secret.ray.arn
}

output "launch_template_id" {
  description = "Launch template of the workers; null when there are none."
  value       = one(aws_launch_template.worker[*].id)
}

output "cluster_yaml" {
  description = "The autoscaler's configuration (Ray cluster YAML), for bootstrap/cluster.yaml; null when there are no workers."
  value       = local.cluster_yaml
}

output "worker" {
  description = "Facts of a worker: cpus, gpus, accelerator, efa, usd_per_hour; null when there are none."
  value       = local.worker
}

output "head_gpus" {
  description = "GPUs of the head."
  value       = local.head_gpus
}

output "usd_per_hour" {
  description = "On-demand prices in us-east-1 as remembered: of the head (null: not in the table) and of all workers together."
  value = {
    head    = lookup(local.head_usd_per_hour, var.head_instance_type, null)
    workers = var.max_workers * try(local.worker.usd_per_hour, 0)
  }
}

output "login_command" {
  description = "A shell on the head, without SSH."
  value       = "aws ssm start-session --region ${var.region} --target ${aws_instance.head.id}"
}

output "tunnel_command" {
  description = "Brings the dashboard and the Jobs API to http://127.0.0.1:8265 for as long as it runs."
  value       = "aws ssm start-session --region ${var.region} --target ${aws_instance.head.id} --document-name AWS-StartPortForwardingSession --parameters portNumber=8265,localPortNumber=8265"
}

output "terminate_command" {
  description = "Ends head and workers, whichever run. Workers are the autoscaler's and not in Terraform's state: run it before `terraform destroy`, with protect = false applied."
  value       = "aws ec2 describe-instances --region ${var.region} --filters Name=tag:ray-cluster-name,Values=${var.name} Name=instance-state-name,Values=pending,running,stopping,stopped --query 'Reservations[].Instances[].InstanceId' --output text | xargs --no-run-if-empty aws ec2 terminate-instances --region ${var.region} --instance-ids"
}
