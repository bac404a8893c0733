output "head_instance_id" {
  description = "Instance id of the head."
  value       = module.ray.head_instance_id
}

output "login_command" {
  description = "A shell on the head."
  value       = module.ray.login_command
}

output "tunnel_command" {
  description = "Dashboard and Jobs API at http://127.0.0.1:8265, while it runs."
  value       = module.ray.tunnel_command
}

output "terminate_command" {
  description = "Ends head and workers, before `terraform destroy`."
  value       = module.ray.terminate_command
}

output "secret_arn" {
  description = "Secret with Ray's token."
  value       = module.ray.secret_arn
}

output "data_bucket" {
  description = "Put your data under data/ of this bucket."
  value       = module.storage.data_bucket
}

output "store_uri" {
  description = "Trunkline's store (store=, TRUNKLINE_STORE)."
  value       = module.storage.store_uri
}

output "tracking_uri" {
  description = "MLflow, from inside the cluster."
  value       = "http://${module.ray.head_private_ip}:5000"
}

output "cluster_yaml" {
  description = "The autoscaler's configuration."
  value       = module.ray.cluster_yaml
}

output "trunkline_cluster_conf" {
  description = "A file for conf/cluster/: all GPUs of all workers. terraform output -raw trunkline_cluster_conf > conf/cluster/mine.yaml"
  value       = <<-YAML
    # ${var.max_workers} × ${var.worker_instance_type}: one training process per GPU. Made by Terraform; cluster=<this file's name>.
    # workflows.submit and cluster-check also take: instance_type=${var.worker_instance_type} max_nodes=${var.max_workers}
    address: null
    workers: ${var.max_workers * module.ray.worker.gpus}
    # a core of every GPU's share stays for the system, the data tasks and Ray
    cpus_per_worker: ${max(1, floor(module.ray.worker.cpus / module.ray.worker.gpus) - 1)}
    gpus_per_worker: 1
    accelerator: ${module.ray.worker.accelerator}
    grows: true
    max_failures: 10
    shard_retries: 3
    price_per_core_hour: null
  YAML
}

output "hourly_cost_note" {
  description = "What an hour costs, roughly."
  value       = <<-TEXT
    Roughly, on demand in us-east-1, without tax: look prices up before you decide by them.
    always:     head ${coalesce(module.ray.usd_per_hour.head, "?")} + NAT gateway 0.05${var.database ? " + database 0.03" : ""} USD an hour, disks and addresses some 20 USD a month
    at most:    ${module.ray.usd_per_hour.workers} USD an hour more for ${var.max_workers} × ${var.worker_instance_type}${var.spot ? " (less on spot)" : ""}
    by use:     S3 0.023 USD a gigabyte and month; traffic through the NAT gateway 0.045 USD a gigabyte (S3 goes past it)
  TEXT
}
